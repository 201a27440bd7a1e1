#!/usr/bin/perl
# Beyond one machine: HAProxy, by units/haproxy.cfg as printed, in front of
# three hosts, which are network namespaces with a tcpserver of their own.  One
# of them is killed under load.  Every message that got 250 was relayed, once.
#
# All of it is in namespaces of our own, and ends with them; as root, or where
# users may have some.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use POSIX qw(mkfifo);
use Super;
use Test::More;

my $haproxy = program('haproxy');
my $tcpserver = program('tcpserver');
program('ip');
if (!$ENV{SMTPD_NETNS}) {
	my @own = ('unshare', $< == 0 ? () : qw(--user --map-root-user),
	    qw(--net --mount --pid --fork --kill-child --mount-proc));
	skip_all('no network namespaces here')
	    if system("@own true 2>/dev/null") != 0;
	$ENV{SMTPD_NETNS} = 1;
	exec @own, $^X, $0 or die "unshare: $!\n";
}

my $hands    = 8;
my $each     = 40;
my $client   = '198.51.100.7';
my $balancer = '192.0.2.1';
my %host     = map { $_ => "192.0.2.1$_" } 1 .. 3;
my %server;

sub program {
	my ($name) = @_;
	for my $dir (split(/:/, $ENV{PATH}), qw(/usr/sbin /sbin)) {
		return "$dir/$name" if -x "$dir/$name";
	}
	skip_all("$name is not installed");
}

sub run {
	system(@_) == 0 or die "@_\n";
}

# ---- three hosts and what is in front of them -------------------------------

run(qw(ip link set lo up));
run(qw(ip address add), "$client/32", qw(dev lo));
for my $n (sort keys %host) {
	# The script as printed, in a namespace whose link it waits for.
	mkfifo("$scratch/link$n", 0600) or die "mkfifo: $!\n";
	my $script = spew("$scratch/run$n", example('tcpserver.run',
	    'exec 2>&1'          => "read link <$scratch/link$n\n"
		. "ip address add $host{$n}/24 dev eth0\n"
		. "ip link set eth0 up\nexec 2>$scratch/log$n",
	    'exec tcpserver'     => "exec $tcpserver -1",
	    '@SBINDIR@/smtpd'    => $smtpd,
	    'smtp:[192.0.2.1]:25' =>
		"--nosetuid --proxy-protocol maildir:$scratch/box$n"));
	$server{$n} = start(qw(unshare --net --pid --fork --kill-child sh -c),
	    "echo born; exec sh $script");
	await($server{$n}, qr/^born$/m);
	run(qw(ip link add), "host$n", qw(type veth peer name eth0 netns),
	    $server{$n}{pid});
	run(qw(ip address add), "$balancer/32", 'dev', "host$n");
	run(qw(ip link set), "host$n", 'up');
	run(qw(ip route add), "$host{$n}/32", 'dev', "host$n", 'src', $balancer);
	spew("$scratch/link$n", "up\n");
	await($server{$n}, qr/^25$/m);
}
my $front = start($haproxy, qw(-W -f), "$top/units/haproxy.cfg");
await($front, qr/Loading success/);

# ---- the load ---------------------------------------------------------------

# One hand: its messages, each tried again until it gets 250, as clients do.
# Every try has a name of its own.
sub hand {
	my ($hand, $report) = @_;
	for my $n (1 .. $each) {
		for my $try (1 .. 50) {
			my $name = "$hand.$n.$try";
			my $s = IO::Socket::INET->new(LocalAddr => $client,
			    PeerAddr => '127.0.0.1', PeerPort => 25) or next;
			next if replies(talk($s, message($name))) !~
			    /^220 250 250 250 354 250/;
			syswrite $report, "$name\n";
			last;
		}
	}
	POSIX::_exit(0);
}

pipe my $taken, my $report or die "pipe: $!\n";
for my $hand (1 .. $hands) {
	my $pid = fork // die "fork: $!\n";
	hand($hand, $report) if $pid == 0;
}
close $report;

my @taken;
while (my $name = <$taken>) {
	chomp $name;
	push @taken, $name;
	kill KILL => $server{2}{pid} if @taken == $hands * $each / 4;
}
# ---- what became of it ------------------------------------------------------

my (%copies, %from);
for my $n (sort keys %host) {
	for my $text (map { slurp($_) } glob("$scratch/box$n/new/*")) {
		my ($name) = $text =~ /^Subject: (\S+)$/m;
		$copies{$name}++;
		$from{$n}++;
		$from{client}++ if $text =~ /^Received: .*\[$client\]/m;
	}
}
is(scalar @taken, $hands * $each, 'every message got 250 at last');
is(scalar(grep { ($copies{$_} // 0) != 1 } @taken), 0,
    'every message that got 250 was relayed exactly once');
is(scalar(grep { $_ > 1 } values %copies), 0, 'and no other twice');
cmp_ok($from{$_} // 0, '>', 0, "host $_ took its part") for 1 .. 3;
cmp_ok($from{1} + $from{3}, '>', $from{2},
    'the others took over from the one that was killed');
is($from{client}, $from{1} + $from{2} + $from{3},
    'each trace names the client and not HAProxy');
note(scalar(grep { !/\.1$/ } @taken), ' messages took more than one try, ',
    $from{client} - @taken, ' tries were relayed without the client hearing');

# ---- health checks ----------------------------------------------------------

# What HAProxy says to host 1: a header that speaks for itself, EHLO, QUIT.
my $check = IO::Socket::INET->new(PeerAddr => $host{1}, PeerPort => 25)
    or die "host 1: $!\n";
syswrite $check, "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
is(replies(talk($check, 'EHLO balancer.example.com', 'QUIT')), '220 250 221',
    'host 1 is well');
for my $n (1, 3) {
	my @records = slurp("$scratch/log$n") =~ /^smtpd: .*event=.*$/mg;
	cmp_ok(scalar @records, '>', 0, "host $n has a log");
	is(scalar(grep { !/client=\Q$client\E\b/ } @records), 0,
	    'and nothing but clients in it');
}
done_testing;
