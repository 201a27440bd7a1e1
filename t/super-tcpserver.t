#!/usr/bin/perl
# tcpserver, by the script units/tcpserver.run; its log is standard error.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Super;
use Test::More;

my $tcpserver = tool('ucspi-tcp', 'usr/bin/tcpserver');
my %services  = services();
my (%port, %server);

# The script as printed, but for the port and the paths; -1 has tcpserver say
# that it listens.
for my $name (sort keys %services) {
	$port{$name} = free_port();
	my $run = spew("$scratch/$name.run", example('tcpserver.run',
	    'exec tcpserver'     => "exec $tcpserver -1",
	    ' 0 25 '             => " 127.0.0.1 $port{$name} ",
	    '@SBINDIR@/smtpd'    => $smtpd,
	    'smtp:[192.0.2.1]:25' => $services{$name}));
	chmod 0755, $run;
	$server{$name} = start($run);
	await($server{$name}, qr/^$port{$name}$/m);
}
conversations(%port);

await($server{plain}, qr/event=message-relayed .*client=127\.0\.0\.1/m);
pass('the log has the message');
await($server{plain}, qr/event=client-lost .*client=127\.0\.0\.1/m);
pass('and the client that went away');
await($server{chatty}, qr/NOISE on standard error/m);
pass('and what the program wrote');
await($server{wrong}, qr/^smtpd: .*--no-such-option/m);
pass('and what is wrong with a command line');
done_testing;
