#!/usr/bin/perl
# What each directive of a service unit costs a connection.
#
#	t/systemd/boot.sh t/systemd/costs.pl		(as root; a minute or two)
#
# Every directive gets a unit of its own, with a responder of a dozen lines of
# C as the service.  A connection is timed from connect() to end of file, one
# after the other.  Rounds go over all the units in turn, each measured right
# behind the bare unit, so that whatever else the machine does falls on both;
# of what is measured the fastest tenth counts.  Prints, for each, what a
# connection takes as a multiple of the bare unit's, and in milliseconds more.
use strict;
use warnings;
use lib '/rig';
use IO::Socket::INET;
use Super;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

alarm 0;
my $rounds = 10;
my $each   = 8;
my @sets   = map { [split /\s*;\s*/] } split /\n/, <<'.';
# bare
# bare, again: the noise
User=smtpd
DynamicUser=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
UMask=0077
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=@system-service; SystemCallArchitectures=native
SystemCallFilter=~@mount @module @raw-io; SystemCallArchitectures=native
ProtectHostname=yes
ProtectClock=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectSystem=yes
ProtectSystem=strict
ProtectHome=yes
ReadOnlyPaths=/
InaccessiblePaths=/boot
NoExecPaths=/tmp
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
PrivateNetwork=yes
PrivateIPC=yes
PrivateMounts=yes
ProtectProc=invisible
ProcSubset=pid
DevicePolicy=closed
IPAddressDeny=any
RemoveIPC=yes
KeyringMode=private
LimitCORE=0
LimitNOFILE=64
TasksMax=32
MemoryMax=64M
RuntimeMaxSec=1h
NotifyAccess=all
Type=exec
EnvironmentFile=/etc/smtpd/env
LoadCredential=key:/etc/hostname
SetCredential=key:value
StateDirectory=smtpd
RuntimeDirectory=smtpd
Slice=smtpd.slice
.

spew('/rig/responder.c', <<'.');
#include <unistd.h>
int
main(void)
{
	char line[512];

	return write(1, "220 ready\r\n", 11) == 11 &&
	    read(0, line, sizeof line) > 0 &&
	    write(1, "221 bye\r\n", 9) == 9 ? 0 : 1;
}
.
system('cc -O2 -o /rig/responder /rig/responder.c') == 0 or die "cc\n";
system('systemd-sysusers');
mkdir '/etc/smtpd';
spew('/etc/smtpd/env', "SMTPD_RELAY=discard:\n");

# The shipped units, as installed, without what they run.
sub directives {
	my $text = join '', map { slurp($_) } @_;
	$text =~ s/\\\n\s*//g;
	$text =~ s/^\[Unit\].*?(?=^\[)//gms;
	return grep { /^[A-Z]/ && !/^(?:ExecStart|Environment)=/ }
	    split /\n/, $text;
}

my ($units) = grep { -e "$_/smtpd\@.service" }
    qw(/usr/local/lib/systemd/system /usr/lib/systemd/system);
my $shipped = "$units/smtpd\@.service";
my $dropin = "$shipped.d";
spew("/etc/smtpd/$_", '') for qw(tlscert tlskey users);
push @sets, ['# smtpd@.service', directives($shipped)],
    map { ["# with $_", directives($shipped, "$dropin/$_.conf.example")] }
    qw(tls hardened setgid);
push @sets, ['# smtpd-submission@.service',
    directives("$units/smtpd-submission\@.service")];

my $port = 2000;
for my $set (@sets) {
	spew("/run/systemd/system/cost$port.socket", <<".");
[Socket]
ListenStream=127.0.0.1:$port
Accept=yes
TriggerLimitIntervalSec=0
.
	spew("/run/systemd/system/cost$port\@.service",
	    join "\n", '[Service]', 'ExecStart=/rig/responder',
	    'StandardInput=socket', 'StandardError=journal', @$set, '');
	$port++;
}
system('systemctl daemon-reload') == 0 or die "daemon-reload\n";
system('systemctl', 'start', map { "cost$_.socket" } 2000 .. $port - 1) == 0
    or die "sockets\n";

sub connection {
	my $start = clock_gettime(CLOCK_MONOTONIC);
	my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
	    PeerPort => $_[0]) or return;
	my $greeting = <$s> // '';
	print $s "QUIT\r\n";
	my $rest = do { local $/; <$s> } // '';
	return if $greeting !~ /^220 / || $rest !~ /^221 /;
	return 1000 * (clock_gettime(CLOCK_MONOTONIC) - $start);
}

sub low {
	my @t = sort { $a <=> $b } @_;
	return @t ? $t[@t / 10] : 'nan';
}

my (%bare, %ms);
for my $round (0 .. $rounds) {
	for my $p (2000 .. $port - 1) {
		my @b = map { connection(2000) } 1 .. $each;
		my @t = map { connection($p) } 1 .. $each;
		next if !$round;    # the first warms up
		push @{ $bare{$p} }, @b;
		push @{ $ms{$p} }, @t;
	}
}

printf "bare unit: %.2f ms\n", low(map { @$_ } values %bare);
for my $i (0 .. $#sets) {
	my $p = 2000 + $i;
	my ($b, $m) = (low(@{ $bare{$p} }), low(@{ $ms{$p} }));
	my $lost = $rounds * $each - @{ $ms{$p} };
	printf "%5.2f x  %+6.2f ms  %s%s\n", $m / $b, $m - $b,
	    join('; ', $sets[$i][0] =~ /^# (.*)/ ? $1 : @{ $sets[$i] }),
	    $lost ? "  ($lost lost)" : '';
}
