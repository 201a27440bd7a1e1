# make deps run, make deps check: see README.
PREFIX = /usr/local
CFLAGS = -O2 -g
CRITERION = $(shell pkg-config --cflags --libs criterion 2>/dev/null || echo -lcriterion)
TLS_LIBS = $(shell pkg-config --libs openssl 2>/dev/null || echo -lssl -lcrypto)

WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wcast-qual \
	-Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wformat=2
HARDEN = -D_FORTIFY_SOURCE=2 -fstack-protector-strong \
	-fstack-clash-protection -fPIE
LINK = -pie -Wl,-z,relro,-z,now
ALLCFLAGS = -std=c11 -D_POSIX_C_SOURCE=200809L $(WARN) $(HARDEN) $(CFLAGS)
SAN = -std=c11 -D_POSIX_C_SOURCE=200809L -O1 -g -fno-omit-frame-pointer \
	-fsanitize=address,undefined -fno-sanitize-recover=undefined

ROOMS = channel relay nexthop policy monitor
OBJ = $(ROOMS:%=%.o)
SUITES = channel relay nexthop policy

all: smtpd smtpd-tls

smtpd: smtpd.o $(OBJ)
	$(CC) $(LINK) $(LDFLAGS) -o $@ smtpd.o $(OBJ) -lcrypt

smtpd-tls: tls.o
	$(CC) $(LINK) $(LDFLAGS) -o $@ tls.o $(TLS_LIBS)

.c.o:
	$(CC) $(CPPFLAGS) $(ALLCFLAGS) -MMD -c -o $@ $<

# The suites, and a second smtpd, under the sanitizers.
t/san/%.o: %.c
	@mkdir -p t/san
	$(CC) $(CPPFLAGS) $(SAN) -MMD -c -o $@ $<

t/san/smtpd: t/san/smtpd.o $(OBJ:%=t/san/%)
	$(CC) $(SAN) -o $@ t/san/smtpd.o $(OBJ:%=t/san/%) -lcrypt

t/%: t/%.c $(OBJ:%=t/san/%)
	$(CC) $(CPPFLAGS) $(SAN) $(WARN) -I. -o $@ $< $(OBJ:%=t/san/%) -lcrypt $(CRITERION)

check: all t/san/smtpd $(SUITES:%=t/%)
	prove $(PROVE) $(SUITES:%=t/%) t/*.t

clean:
	rm -rf smtpd smtpd-tls *.o *.d $(SUITES:%=t/%) t/*.d t/san t/cov

.PHONY: all check clean
-include $(wildcard *.d t/san/*.d)
