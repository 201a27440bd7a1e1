#!/usr/bin/perl
# xinetd, by the lines in units/xinetd.conf.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use POSIX qw(mkfifo);
use Super;
use Test::More;

my $xinetd   = tool('xinetd', 'usr/sbin/xinetd');
my %services = services();
my $config   = '';
my %port;

# The lines as printed, but for the port, the paths and who we are.
for my $name (sort keys %services) {
	$port{$name} = free_port();
	$config .= example('xinetd.conf',
	    "service smtp\n{"    => "service $name\n{\n\ttype = UNLISTED\n"
		. "\tbind = 127.0.0.1\n\tport = $port{$name}",
	    "= root\n"           => '= ' . getpwuid($<) . "\n",
	    '@SBINDIR@/smtpd'    => $smtpd,
	    'smtp:[192.0.2.1]:25' => $services{$name});
}

# Its log is a file, or nothing: so let the file be what we wait for.
mkfifo("$scratch/log", 0600) or die "$scratch/log: $!\n";
open my $log, '+<', "$scratch/log" or die "$scratch/log: $!\n";
my $server = start($xinetd, '-dontfork', '-filelog', "$scratch/log",
    '-pidfile', "$scratch/pid", '-f', spew("$scratch/xinetd.conf", $config));
$server->{out} = $log;
await($server, qr/Started working: 3 available services/m);
conversations(%port);
done_testing;
