#!/usr/bin/perl
# What each directive of a service unit costs a connection.
#
#	t/systemd.sh t/systemd/costs.pl		(as root; a minute or two)
#
# Every directive gets a unit of its own, with a responder of a dozen lines of
# C as the service.  A connection is timed from connect() to end of file, one
# after the other; rounds go over all the units in turn, so that whatever else
# the machine does falls on all of them.  Prints, for each, the median as a
# multiple of the bare unit's, and as milliseconds more than it.
use strict;
use warnings;
use IO::Socket::INET;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

my $rounds = 6;
my $each   = 10;
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
EnvironmentFile=-/etc/default/smtpd
EnvironmentFile=/etc/passwd.conf
LoadCredential=key:/etc/hostname
SetCredential=key:value
StateDirectory=smtpd
RuntimeDirectory=smtpd
Slice=smtpd.slice
.

sub text {
	my ($path, $text) = @_;
	open my $f, '>', $path or die "$path: $!\n";
	print $f $text;
	close $f or die "$path: $!\n";
}

text('/etc/passwd.conf', "SMTPD_RELAY=discard:\n");
text('/rig/responder.c', <<'.');
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
system('useradd -r smtpd') if !getpwnam 'smtpd';

# Further sets from the command line's place: what a shipped unit takes.
for my $file (glob('/rig/systemd/*.set')) {
	open my $f, '<', $file or die "$file: $!\n";
	chomp(my @lines = <$f>);
	push @sets, ["# $file", @lines];
}

my $port = 2000;
for my $set (@sets) {
	text("/run/systemd/system/cost$port.socket", <<".");
[Socket]
ListenStream=127.0.0.1:$port
Accept=yes
TriggerLimitIntervalSec=0
.
	text("/run/systemd/system/cost$port\@.service",
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

my %ms;
for my $round (0 .. $rounds) {
	for my $p (2000 .. $port - 1) {
		my @t = map { connection($p) } 1 .. $each;
		push @{ $ms{$p} }, @t if $round;    # the first warms up
	}
}

sub median {
	my @t = sort { $a <=> $b } @_;
	return @t ? $t[@t / 2] : 'nan';
}

my $bare = median(@{ $ms{2000} });
printf "bare unit: %.2f ms\n", $bare;
for my $i (0 .. $#sets) {
	my $m = median(@{ $ms{ 2000 + $i } });
	printf "%5.2f x  %+6.2f ms  (%d)  %s\n", $m / $bare, $m - $bare,
	    scalar @{ $ms{ 2000 + $i } }, $sets[$i][0];
}
