# EdgeFS. The targets people use:
#   make            build every program into build/
#   make check      install what is missing, build, run all tests; ends with "N passed, N failed"
#   make demo       install what is missing, build, run the main job end to end (KEEP=1 leaves it running)
#   make bench      benchmarks, each row paired with a plain directory; writes bench/RESULTS.md
#   make check-long longer campaigns of the same tests, and SQLite's veryquick set on the mount
#   make check-sqlite  SQLite's own test suite on the mount against a plain directory (ARGS=… for scripts/check-sqlite)
#   make install    PREFIX=/usr/local
# make SAN=1 builds with ASan and UBSan into build-san/; make TSAN=1 with TSan into build-tsan/.

VERSION  := 0.1.0
CC       ?= gcc
PREFIX   ?= /usr/local
PKGS     := fuse3 sqlite3 liblz4 libcurl libssl libcrypto libevent libevent_openssl libevent_pthreads yaml-0.1 jansson libisal
LLHTTP   ?= /usr/share/llhttp

BUILD    := build
ifeq ($(SAN),1)
BUILD    := build-san
SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
endif
ifeq ($(TSAN),1)
BUILD    := build-tsan
SANFLAGS := -fsanitize=thread
endif

OPT      ?= -O2 -g
WARN     := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Werror
CPPFLAGS += -D_GNU_SOURCE -DEDGEFS_VERSION='"$(VERSION)"' -Iinclude -I. -I/usr/share/include/llhttp $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
CFLAGS   += -std=gnu17 $(OPT) $(WARN) -fvisibility=hidden -pthread $(SANFLAGS)
LDFLAGS  += -pthread $(SANFLAGS)
LDLIBS   += $(shell pkg-config --libs $(PKGS) 2>/dev/null)

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))

LIB_SRC        := $(wildcard lib/*.c lib/http/*.c)
FS_SRC         := $(wildcard fs/*.c)
REPLICATOR_SRC := $(wildcard replicator/*.c replicator/*/*.c)
PROXY_SRC      := $(wildcard http-proxy/*.c)
CTL_SRC        := $(wildcard ctl/*.c)
LAUNCHER_SRC   := $(wildcard ctl/launcher/*.c)
UNIT_SRC       := $(wildcard tests/unit/test_*.c)
UNIT_HELPERS   := $(filter-out $(UNIT_SRC),$(wildcard tests/unit/*.c))
BENCH_SRC      := $(wildcard bench/*.c)
TOOL_SRC       := $(wildcard tests/tools/*.c)
TORTURE_SRC    := $(wildcard tests/torture/*.c)

LIBEDGEFS  := $(BUILD)/libedgefs.a
LIBLLHTTP  := $(BUILD)/libllhttp.a
# Every program's modules but its main, for unit tests.
LIBPARTS   := $(BUILD)/libparts.a
PROGRAMS   := $(addprefix $(BUILD)/,edgefs edgefs-fs edgefs-replicator edgefs-proxy edgefs-ctl)
UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(UNIT_SRC))
BENCHES    := $(patsubst bench/%.c,$(BUILD)/bench/%,$(BENCH_SRC))
TOOLS      := $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(TOOL_SRC)) $(BUILD)/torture $(BUILD)/clock.so $(BUILD)/killed.so

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all programs units benches tools check check-long check-sqlite check-unit check-unit-san demo bench install deps clean tidy

all: programs
programs: $(PROGRAMS)
units: $(UNIT_TESTS)
benches: $(BENCHES)
tools: $(TOOLS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# llhttp comes as generated C in a Debian package: compiled as it is, without our warnings.
$(BUILD)/llhttp/%.o: $(LLHTTP)/%.c
	@mkdir -p $(@D)
	$(CC) -O2 -g -fvisibility=hidden -I/usr/share/include/llhttp $(SANFLAGS) -w -c -o $@ $<

$(LIBLLHTTP): $(call obj,llhttp/api.c llhttp/http.c llhttp/llhttp.c)
	rm -f $@ && ar rcs $@ $^

$(LIBEDGEFS): $(call obj,$(LIB_SRC))
	rm -f $@ && ar rcs $@ $^

$(LIBPARTS): $(filter-out %/main.o,$(call obj,$(FS_SRC) $(REPLICATOR_SRC) $(PROXY_SRC) $(LAUNCHER_SRC) ctl/rowdiff.c))
	rm -f $@ && ar rcs $@ $^

$(BUILD)/edgefs: $(call obj,$(LAUNCHER_SRC)) $(LIBEDGEFS) $(LIBLLHTTP)
$(BUILD)/edgefs-fs: $(call obj,$(FS_SRC)) $(LIBEDGEFS) $(LIBLLHTTP)
$(BUILD)/edgefs-replicator: $(call obj,$(REPLICATOR_SRC)) $(LIBEDGEFS) $(LIBLLHTTP)
$(BUILD)/edgefs-proxy: $(call obj,$(PROXY_SRC)) $(LIBEDGEFS) $(LIBLLHTTP)
$(BUILD)/edgefs-ctl: $(call obj,$(CTL_SRC)) $(LIBEDGEFS) $(LIBLLHTTP)
$(PROGRAMS):
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(call obj,$(UNIT_HELPERS)) $(LIBPARTS) $(LIBEDGEFS) $(LIBLLHTTP)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(LIBEDGEFS) $(LIBLLHTTP)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tools/%: $(BUILD)/tests/tools/%.o $(LIBEDGEFS) $(LIBLLHTTP)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/torture: $(call obj,$(TORTURE_SRC)) $(LIBEDGEFS)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Preloaded by tests: a wall clock that jumps, a replicator that is killed between two steps. (Not with sanitizers: they want to be loaded first.)
$(BUILD)/clock.so: tests/cluster/clock.c
$(BUILD)/killed.so: tests/integration/killed.c
$(BUILD)/clock.so $(BUILD)/killed.so:
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu17 $(OPT) $(WARN) -fPIC -fvisibility=hidden -shared -o $@ $< -ldl

deps:
	scripts/install-deps

check: deps
	scripts/check

check-long: deps
	LONG=1 scripts/check
	scripts/check-sqlite --set veryquick

check-sqlite: deps
	$(MAKE) programs
	scripts/check-sqlite $(ARGS)

demo: deps
	$(MAKE) programs
	KEEP=$(KEEP) scripts/demo

bench: deps
	$(MAKE) programs benches
	bench/run

install: programs
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/

tidy:
	clang-tidy --quiet $(LIB_SRC) $(FS_SRC) $(REPLICATOR_SRC) $(PROXY_SRC) $(CTL_SRC) $(LAUNCHER_SRC) -- $(CPPFLAGS) -std=gnu17

clean:
	rm -rf build build-san build-tsan

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
