# make deps run, make deps check: see README.
PREFIX = /usr/local
CFLAGS = -Oz -g
PORT = 8025
OBJCOPY = objcopy
SECONDS_EACH = 60
VERSION = 1.0
# libsmtpd-channel.so's soname: other structs, another number.
ABI = 1
WITH_SYSTEMD = yes
# yes: ./smtpd is one static file, built with musl-gcc into musl/, and so is
# ./smtpd-tls, with this system's libc and OpenSSL.
STATIC = no
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wcast-qual \
	-Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wformat=2
HARDEN = -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 \
	-fstack-protector-strong -fstack-clash-protection -fPIE
LINK = -pie -Wl,-z,relro,-z,now,-z,pack-relative-relocs,-z,noseparate-code \
	-Wl,--gc-sections
SMALL = -ffunction-sections -fno-asynchronous-unwind-tables -fno-plt
# Files and times have 64 bits where a long has 32, too.  Where it has 64 this
# would only give functions other names than those that tests take the place of.
LARGE := $(if $(shell $(CC) -dM -E -x c /dev/null | grep __LP64__),,\
	-D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64)
STD = -std=c11 -D_POSIX_C_SOURCE=200809L $(LARGE) -I. -Isrc $(WARN) \
	-DVERSION='"$(VERSION)"' -DLIBEXEC='"$(PREFIX)/libexec"' \
	$(if $(filter yes,$(WITH_SYSTEMD)),-DWITH_SYSTEMD)
ALLCFLAGS = $(STD) $(HARDEN) $(SMALL) $(CFLAGS)
SAN = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined
# The kernel's headers are among glibc's: they come last.
MUSL = musl-gcc -idirafter /usr/include/$(shell $(CC) -print-multiarch) \
	-idirafter /usr/include
MUSL_LIB = /usr/lib/$(shell uname -m)-linux-musl
MUSL_LINK = -Wl,-pie,--no-dynamic-linker,-z,text,-z,relro,-z,now \
	-Wl,-z,noseparate-code,--gc-sections
CRITERION = $(shell pkg-config --cflags --libs criterion)
TLS = $(shell pkg-config --libs $(TLS_LINK:-static-pie=--static) openssl)
TLS_LINK = $(if $(filter yes,$(STATIC)),-static-pie)

# What libsmtpd-channel has, what smtpd has beside main(), and smtpd-tls.
CHANNEL = channel.c $(wildcard src/channel/*.c) src/base/reply.c src/base/text.c
ROOMS = $(CHANNEL) relay.c $(filter-out $(CHANNEL) src/tls/%,\
	$(wildcard src/*/*.c))
ENGINE = $(wildcard src/tls/*.c) src/monitor/confine.c \
	$(addprefix src/base/,clock.c fingerprint.c text.c)
SRC = $(sort smtpd.c $(ROOMS) $(ENGINE))
OBJ = $(ROOMS:.c=.o)
SUITES = $(patsubst t/%.c,t/out/%,$(wildcard t/*_test.c))
PEERS = $(wildcard t/peers/*.t)
FUZZERS = $(filter-out replay,$(notdir $(basename $(wildcard t/fuzz/*.c))))
REPLAY = $(FUZZERS:%=t/out/replay/%)
# Those whose connections all lead to t/fakes/peer.c.
PEERED = auth live milter nexthop policy sasl
# Those that only seem to start programs.
STARTED = credentials sasl
WITNESS = t/fakes/recorder.o t/fakes/world.o t/fakes/bench.o t/fakes/hop.o \
	t/transcripts/session.o
SO = libsmtpd-channel.so.$(ABI)
EXPORTS = src/channel/exports.map
# What is installed, FILE:PLACE below PREFIX; @NAME@ in units is filled in.
UNITS = $(wildcard units/*.socket units/*.service units/*.d/*)
SHIP = smtpd:sbin/smtpd smtpd-tls:libexec/smtpd-tls \
	smtpd.8:share/man/man8/smtpd.8 \
	src/tls/smtpd-tls.8:share/man/man8/smtpd-tls.8 \
	t/tools/smtpd-replay:bin/smtpd-replay \
	t/tools/smtpd-replay.1:share/man/man1/smtpd-replay.1 \
	t/tools/smtpd-report:bin/smtpd-report \
	t/tools/smtpd-report.1:share/man/man1/smtpd-report.1 \
	channel.h:include/smtpd/channel.h \
	src/base/mail.h:include/smtpd/base/mail.h \
	libsmtpd-channel.a:lib/libsmtpd-channel.a $(SO):lib/$(SO) \
	src/channel/smtpd-channel.3:share/man/man3/smtpd-channel.3 \
	units/smtpd-channel.pc:lib/pkgconfig/smtpd-channel.pc \
	units/sysusers.conf:lib/sysusers.d/smtpd.conf \
	units/smtpd-recipes.7:share/man/man7/smtpd-recipes.7 \
	units/smtpd-log.7:share/man/man7/smtpd-log.7 \
	units/smtpd.bash:share/bash-completion/completions/smtpd \
	units/smtpd.catalog:lib/systemd/catalog/smtpd.catalog \
	$(foreach u,$(UNITS),$u:$(subst units,lib/systemd/$(if $(findstring \
	catch,$u),user,system),$u)) \
	$(foreach u,$(filter-out $(UNITS) %.d %.catalog %.pc %/sysusers.conf \
	%.bash %.7 units/debian,$(wildcard units/*)),$u:$(subst \
	units,share/doc/smtpd,$u))

all: smtpd smtpd-tls libsmtpd-channel.a $(SO)

ifeq ($(STATIC),yes)
smtpd: musl/smtpd .built
	cp musl/smtpd $@
else
smtpd: smtpd.o $(OBJ) .built
	$(CC) $(LINK) $(LDFLAGS) -o $@ smtpd.o $(OBJ)
endif
# musl-gcc's own -static-pie names a start file that does not relocate.
musl/smtpd: musl/smtpd.o $(OBJ:%=musl/%)
	$(MUSL) -static -nostartfiles $(MUSL_LINK) $(LDFLAGS) -o $@ \
	    $(MUSL_LIB)/rcrt1.o $(MUSL_LIB)/crti.o $^ \
	    $(shell $(CC) -print-file-name=libcrypt.a) $(MUSL_LIB)/crtn.o
musl/%.o: %.c
	@mkdir -p $(@D)
	$(MUSL) $(CPPFLAGS) $(filter-out -DWITH_SYSTEMD,$(ALLCFLAGS)) -MMD \
	    -c -o $@ $<
musl/smtpd.o musl/src/session/options.o musl/src/service/milter_macros.o: .built
# Static, it takes 0.7 times the CPU of a session, and must be built again for
# each fix of OpenSSL.
smtpd-tls: $(ENGINE:.c=.o) .built
	$(CC) $(LINK) $(TLS_LINK) $(LDFLAGS) -o $@ $(filter %.o,$^) $(TLS)
# One object, in which only what is promised can be seen.
libsmtpd-channel.a: pic/channel-whole.o
	rm -f $@
	$(AR) rcs $@ $^
pic/channel-whole.o: $(CHANNEL:%.c=pic/%.o) $(EXPORTS)
	$(CC) -r -nostdlib -o $@ $(filter %.o,$^)
	sed -n 's/^\t\([a-z_]*\);$$/\1/p' $(EXPORTS) >pic/exports
	$(OBJCOPY) --keep-global-symbols=pic/exports $@
# Without a link here, so that -L. -lsmtpd-channel is the static one.
$(SO): $(CHANNEL:%.c=pic/%.o) $(EXPORTS)
	$(CC) -shared $(filter-out -pie,$(LINK)) $(LDFLAGS) -Wl,-soname,$@ \
	    -Wl,--version-script=$(EXPORTS) -Wl,-z,defs -o $@ $(filter %.o,$^)
pic/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(filter-out -fPIE,$(ALLCFLAGS)) -fPIC -MMD -MP \
	    -c -o $@ $<
smtpd.o src/session/options.o src/session/systemd.o \
    src/service/milter_macros.o src/tls/tls.o: .built
.built: FORCE
	@echo $(PREFIX) $(VERSION) $(WITH_SYSTEMD) $(STATIC) | cmp -s - $@ || \
	    echo $(PREFIX) $(VERSION) $(WITH_SYSTEMD) $(STATIC) >$@
.c.o:
	$(CC) $(CPPFLAGS) $(ALLCFLAGS) -MMD -MP -c -o $@ $<

deps:
	t/tools/deps.sh $(MAKECMDGOALS) STATIC=$(STATIC)
ifneq ($(filter deps,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif

run: all
	@printf '%s\n' 'Listening on 127.0.0.1:$(PORT), until Ctrl-C: every' \
	    'message is shown here.  To send one, from elsewhere:' '' \
	    "  printf 'Subject: hello\n\nIt works.\n' | curl -sS --crlf -T - \\" \
	    '    --mail-from me@example.org --mail-rcpt you@example.net \' \
	    '    smtp://127.0.0.1:$(PORT)' ''
	@SYSTEMD_LOG_LEVEL=warning exec systemd-socket-activate \
	    -l 127.0.0.1:$(PORT) --accept --inetd -E TERM -E NO_COLOR \
	    ./smtpd --log-level notice --smtputf8 show:

# The suites, and a second smtpd, under the sanitizers.
t/out/san/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(STD) $(SAN) -MMD -MP -c -o $@ $<
t/out/san/rooms.a: $(OBJ:%=t/out/san/%) \
    $(WITNESS:%=t/out/san/%)
	$(AR) rcs $@ $^
t/out/san/smtpd: t/out/san/smtpd.o t/out/san/rooms.a t/out/san/smtpd-tls
	$(CC) $(SAN) -o $@ t/out/san/smtpd.o t/out/san/rooms.a -lcrypt
t/out/san/smtpd-tls: $(ENGINE:%.c=t/out/san/%.o)
	$(CC) $(SAN) -o $@ $^ $(TLS)
$(SUITES): t/out/%: t/out/san/t/%.o t/out/san/rooms.a
	$(CC) $(SAN) -o $@ $^ -lcrypt $(CRITERION)
t/out/memory_test: t/out/san/src/tls/memory.o
$(REPLAY): t/out/replay/%: t/out/san/t/fuzz/%.o t/out/san/t/fuzz/replay.o \
    t/out/san/rooms.a
	@mkdir -p $(@D)
	$(CC) $(SAN) $(WRAP) -o $@ $^
$(PEERED:%=t/out/replay/%): t/out/san/t/fakes/peer.o
$(STARTED:%=t/out/replay/%) $(STARTED:%=t/out/fuzz/%): \
    WRAP = -Wl,--wrap=spawn_run
# A traitor in the channel process, and system calls that fail.
t/out/san/planted: t/fakes/planted.c smtpd.o $(OBJ)
	@mkdir -p $(@D)
	$(CC) $(ALLCFLAGS) $(LINK) -o $@ $^ -Wl,--wrap=channel_feed \
	    -Wl,--wrap=socketpair -Wl,--wrap=prctl -Wl,--wrap=syscall \
	    -Wl,--wrap=setrlimit
t/out/san/fault.so: t/fakes/fault.c
	@mkdir -p $(@D)
	$(CC) $(ALLCFLAGS) -fPIC -shared -o $@ $^ -ldl
t/out/ping: t/ping.c libsmtpd-channel.a
	@mkdir -p $(@D)
	$(CC) $(ALLCFLAGS) $(LINK) -o $@ $^

# What shared libraries and C++ are to an embedder, found by rpath.
t/out/loop: t/examples/loop.c libsmtpd-channel.a
	@mkdir -p $(@D)
	$(CC) $(ALLCFLAGS) $(LINK) -o $@ $^
t/out/server: t/examples/server.cc $(SO)
	@mkdir -p $(@D)
	$(CXX) -I. -Isrc -std=c++11 -Wall -Wextra -Wpedantic -O1 -o $@ $^ \
	    -Wl,-rpath,$(CURDIR)

suites: t/out/san/smtpd t/out/san/planted t/out/san/fault.so t/out/ping \
    t/out/loop t/out/server \
    $(SUITES) $(REPLAY)
check: all suites
	prove -e t/tools/prove.sh $(PROVE) $(SUITES) \
	    $(filter-out $(if $(filter yes,$(STATIC)),,t/empty-root.t \
	        t/container.t),\
	    $(wildcard t/*.t))
check-peers: all
	prove $(PROVE) $(PEERS)
check-systemd: all
	prove $(PROVE) $(addprefix t/systemd/,boot.sh resident.sh queues.sh \
	    package.sh recipes.sh trouble.sh package-other.sh \
	    recipes-other.sh trouble-other.sh)
t/out/bench/floor t/out/bench/floor-static: t/bench/floor.c
	@mkdir -p $(@D)
	$(CC) $(ALLCFLAGS) $(if $(findstring static,$@),-static,$(LINK)) \
	    -o $@ $<
t/out/bench/filter: t/bench/filter.c
	@mkdir -p $(@D)
	$(CC) $(ALLCFLAGS) $(LINK) -o $@ $< -lmilter -pthread
bench: all t/out/bench/floor t/out/bench/floor-static t/out/bench/filter \
    t/out/loop
	t/bench/bench.py $(BENCH)

t/out/fuzz/%.o: %.c
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(STD) $(SAN) -fsanitize=fuzzer-no-link -MMD -MP \
	    -c -o $@ $<
t/out/fuzz/rooms.a: $(OBJ:%=t/out/fuzz/%) t/out/fuzz/t/fakes/recorder.o
	$(AR) rcs $@ $^
$(FUZZERS:%=t/out/fuzz/%): t/out/fuzz/%: t/out/fuzz/t/fuzz/%.o \
    t/out/fuzz/rooms.a
	@mkdir -p $@.new
	clang $(SAN) $(WRAP) -fsanitize=fuzzer -o $@ $^
$(PEERED:%=t/out/fuzz/%): t/out/fuzz/t/fakes/peer.o
t/out/fuzz/%.run: t/out/fuzz/%
	$< -max_total_time=$(SECONDS_EACH) -dict=t/fuzz/smtp.dict \
	    -artifact_prefix=t/out/fuzz/ $<.new $(wildcard t/fuzz/corpus/$*)
fuzz: $(FUZZERS:%=t/out/fuzz/%.run)

lint: libsmtpd-channel.a $(SO)
	t/tools/lint.sh $(STD) $(HARDEN) -O2 -- $(SRC)

coverage:
	t/tools/coverage.sh $(SRC)

install: all
	@set -e; for f in $(SHIP); do to=$(DESTDIR)$(PREFIX)/$${f#*:}; \
	    install -D -m $$(case $$f in smtpd-tls:*) echo 711;; *) \
	        test -x $${f%:*} && echo 755 || echo 644;; esac) \
	        $${f%:*} $$to; echo $$to; \
	    case $$f in units/*) sed -i -e 's|@SBINDIR@|$(PREFIX)/sbin|g' \
	        -e 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' $$to;; \
	    esac; done
	ln -sf $(SO) $(DESTDIR)$(PREFIX)/lib/libsmtpd-channel.so
	@[ -n "$(DESTDIR)" ] || printf '%s\n' '' 'Now, where systemd runs:' '' \
	    '  systemd-sysusers' '  systemctl daemon-reload' \
	    '  journalctl --update-catalog' '' \
	    'Then smtpd-recipes(7) shows set-ups by task.'
deb:
	CC='$(CC)' units/debian/build $(VERSION) t/out/deb
uninstall:
	cd $(DESTDIR)$(PREFIX) && rm -fv $(foreach f,$(SHIP),$(lastword \
	    $(subst :, ,$f))) lib/libsmtpd-channel.so
	-rmdir $(addprefix $(DESTDIR)$(PREFIX)/,include/smtpd/base \
	    include/smtpd share/doc/smtpd \
	    lib/systemd/system/smtpd@.service.d \
	    lib/systemd/system/smtpd.socket.d)
	@[ -n "$(DESTDIR)" ] || for f in $$(find /etc/systemd -type l \
	    -path '*.wants/smtpd*.socket' 2>/dev/null); do \
		printf '%s\n' "$${f##*/} is still enabled:" \
		    "  systemctl stop $${f##*/}; rm $$f"; done
	@[ -n "$(DESTDIR)" ] || printf '%s\n' 'Where systemd runs:' \
	    '  systemctl daemon-reload' 'Left are /etc/smtpd,' \
	    '/etc/default/smtpd, and the users smtpd and smtpd-tls.'

clean:
	rm -rf smtpd smtpd-tls musl pic libsmtpd-channel.so* *.[oad] \
	    src/*/*.[od] .built t/out t/__pycache__ t/*/__pycache__

.PHONY: FORCE all bench check check-peers check-systemd clean coverage deb \
	deps fuzz install lint run suites uninstall
-include $(wildcard *.d src/*/*.d musl/*.d pic/*.d pic/src/*/*.d \
	musl/src/*/*.d $(foreach d,san fuzz,t/out/$d/*.d \
	t/out/$d/t/*.d t/out/$d/t/*/*.d t/out/$d/src/*/*.d))
