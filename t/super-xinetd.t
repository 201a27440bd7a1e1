#!/usr/bin/perl
# xinetd, by the lines in units/xinetd.conf.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
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

my $server = start($xinetd, '-d', '-dontfork', '-f',
    spew("$scratch/xinetd.conf", $config));
await($server, qr/Started working: 3 available services/);
conversations(%port);
done_testing;
