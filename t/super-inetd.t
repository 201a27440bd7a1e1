#!/usr/bin/perl
# inetd, by the line in units/inetd.conf.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Super;
use Test::More;

my $inetd    = tool('openbsd-inetd', 'usr/sbin/inetd');
my %services = services();
my $config   = '';
my %port;

# The line as printed, but for the port, the paths and who we are.
for my $name (sort keys %services) {
	$port{$name} = free_port();
	$config .= example('inetd.conf',
	    "\nsmtp "            => "\n127.0.0.1:$port{$name} ",
	    ' root '             => ' ' . getpwuid($<) . ' ',
	    '@SBINDIR@/smtpd'    => $smtpd,
	    'smtp:[192.0.2.1]:25' => $services{$name});
}
# inetd names each service before it listens for it, so one more is the sign
# that the others are there.
my $last = free_port();
$config .= "127.0.0.1:$last stream tcp nowait nobody /bin/cat cat\n";

my $server = start('stdbuf', '-oL', $inetd, '-d', spew("$scratch/inetd.conf", $config));
await($server, qr/^ADD: 127\.0\.0\.1:$last /m);
conversations(%port);
done_testing;
