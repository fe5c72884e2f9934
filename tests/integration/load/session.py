"""session.py DATABASE BUSY_SECONDS: reads [statement, arguments] as JSON, one a line, and answers each with one line of JSON."""
import json
import sqlite3
import sys

conn = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]), isolation_level=None)
for line in sys.stdin:
    statement, args = json.loads(line)
    try:
        answer = {"rows": [[v.hex() if isinstance(v, bytes) else v for v in row] for row in conn.execute(statement, args)]}
    except sqlite3.Error as e:
        answer = {"error": str(e), "name": getattr(e, "sqlite_errorname", type(e).__name__)}
    print(json.dumps(answer), flush=True)
conn.close()
