"""Which test files are run."""

# Scripts that run other test files, or that are speed trials; and one that leaves sparse databases of several GiB (the comparison took 23 GB of memory; that it goes
# piece by piece since was not tried with it). test_files makes databases of that size.
NOT_TESTS = {"bigfile.test", "all.test", "async.test", "quick.test", "veryquick.test", "extraquick.test", "full.test", "memleak.test",
             "permutations.test", "soak.test", "fts3.test", "mallocAll.test", "rtree.test", "session.test", "rbu.test",
             "speed1.test", "speed1p.test", "speed2.test", "speed3.test", "speed4.test", "speed4p.test"}

# The files that concern the pager, WAL, journals, locks, VACUUM, backups, and what happens to databases in trouble.
CONCERNS_FILES = ["wal*.test", "pager*.test", "journal*.test", "jrnlmode*.test", "lock*.test", "trans*.test", "vacuum*.test",
                  "backup*.test", "incrblob*.test", "incrvacuum*.test", "autovacuum*.test", "mmap*.test", "exclusive*.test",
                  "attach*.test", "shared*.test", "crash*.test", "writecrash*.test", "savepoint*.test", "corrupt*.test",
                  "dbfuzz*.test", "*ioerr*.test", "*_err.test", "cacheflush.test", "cachespill.test", "superlock.test", "rollback*.test",
                  "multiplex*.test", "quota*.test", "bigfile*.test", "pagesize.test", "avtrans.test", "conflict*.test", "io.test",
                  "sync*.test", "symlink*.test", "unixexcl.test", "uri*.test", "nolock.test", "nockpt.test", "notify*.test",
                  "memjournal*.test", "stmtrollback.test", "subjournal.test", "tempdb*.test", "zerodamage.test", "8_3_names.test",
                  "dbpage*.test", "dbdata*.test", "snapshot*.test", "thread*.test", "securedel*.test", "secure*.test", "e_wal*.test",
                  "e_vacuum.test", "e_uri.test", "e_blob*.test", "filectrl.test", "filefmt.test", "ovfl.test", "oserror.test",
                  "recover*.test", "rbu*.test", "busy*.test", "cksumvfs.test", "checkfreelist.test", "delete_db.test", "diskfull.test",
                  "tkt*.test", "select*.test", "insert*.test", "update*.test", "delete*.test", "index*.test", "shell*.test", "fts5aa.test",
                  "rtree1.test", "without_rowid*.test", "openv2.test", "dbstatus*.test", "capi*.test", "misc*.test", "btree*.test",
                  "bak*.test", "atomic*.test", "reservebytes.test", "resetdb.test", "walsetlk*.test", "schema*.test", "temp*.test"]

QUICK = ["walbak.test", "walcksum.test", "walnoshm.test", "pager3.test", "journal1.test", "journal2.test", "jrnlmode2.test",
         "lock.test", "lock3.test", "trans3.test", "vacuum.test", "vacuum2.test", "exclusive.test", "attach.test", "savepoint2.test",
         "backup2.test", "mmap2.test", "crash2.test"]

# They repeat each step with its Nth allocation, read or write failing, or crash again and again: minutes each. They come last.
SLOW = ["*malloc*", "*ioerr*", "*fault*", "*crash*", "*_err*", "*fuzz*", "*thread*", "walslow*", "walbig.test", "backup.test", "vacuum3.test", "savepoint[46]*",
        "*rnd*", "big*", "*corrupt*", "sort[1-5].test", "mmap[14].test", "wal3.test"]
