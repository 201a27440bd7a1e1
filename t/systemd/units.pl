#!/usr/bin/perl
# The shipped units, as `make install' leaves them, under a systemd that runs:
# t/systemd/boot.sh boots it, and runs this in it as root.
use strict;
use warnings;
use lib '/rig';
use IO::Socket::UNIX;
use JSON::PP;
use POSIX qw(mkfifo);
use Super;
use Test::More;

alarm 280;
$ENV{SYSTEMD_PAGER} = 'cat';

# ---- helpers ----------------------------------------------------------------

sub run {
	my @command = @_;
	open my $out, '-|', @command or die "$command[0]: $!\n";
	my $said = do { local $/; <$out> } // '';
	close $out;
	return wantarray ? ($said, $? >> 8) : $said;
}

sub systemctl { return run('systemctl', @_) }

# Asks until there is an answer: systemd does not tell when it has done what
# follows from the end of a connection.
sub until_true {
	my ($ask) = @_;
	for (1 .. 1000) {
		my ($answer) = $ask->();
		return $answer if $answer;
	}
	return;
}

sub instances {
	my ($template) = @_;
	return grep { /^\Q$template\E@/ } split ' ',
	    systemctl(qw(list-units --all --plain --no-legend --type=service),
	    "$template@*");
}

sub all_gone {
	my ($template) = @_;
	return until_true(sub { !instances($template) });
}

# The records with these fields, as hashes.
sub records {
	run('journalctl', '--sync');
	return map { decode_json($_) } split /\n/,
	    run(qw(journalctl --quiet --no-pager --output=json --all), @_);
}

# The MESSAGE_IDs, by the names that events have.
my %id = slurp('/rig/log.c') =~ /\{ "([a-z-]+)", "([0-9a-f]{32})"/g;

sub settings {
	my (%set) = @_;
	spew('/etc/default/smtpd', join '', map { "$_=\"$set{$_}\"\n" } keys %set);
}

# Puts an example drop-in of smtpd@.service into use, or none.
sub dropin {
	my ($name, $more) = @_;
	my $dir = '/etc/systemd/system/smtpd@.service.d';
	mkdir $dir;
	unlink glob("$dir/*");
	my ($shipped) = grep { -e } glob("/usr/{local/,}lib/systemd/system/smtpd\@.service.d/"
	    . ($name || 'none') . '.conf.example');
	symlink $shipped, "$dir/$name.conf" or die "$name: $!\n" if $name;
	spew("$dir/more.conf", "[Service]\n$more\n") if $more;
	systemctl('daemon-reload');
}

# A Maildir's place that the service may write to; its messages.
sub box {
	my ($name) = @_;
	my $dir = "/srv/$name";
	mkdir $dir, 0700;
	chown scalar getpwnam('smtpd'), scalar getgrnam('smtpd'), $dir;
	return $dir;
}

sub delivered { return map { slurp($_) } glob("/srv/$_[0]/new/*") }

sub connection {
	my ($port, $from) = @_;
	return IO::Socket::INET->new(PeerAddr => '127.0.0.1',
	    PeerPort => $port, LocalAddr => $from // '127.0.0.1')
	    // die "port $port: $!\n";
}

# Says a line, or nothing, and returns the reply; '' at the end of file.
sub ask {
	my ($s, $line) = @_;
	my $got = '';
	syswrite $s, "$line\r\n" if defined $line;
	until ($got =~ /^\d{3}(?: [^\n]*)?\r\n\z/m) {
		sysread($s, $got, 65536, length $got) or last;
	}
	return $got;
}

# ---- installed and enabled --------------------------------------------------

system('systemd-sysusers');
system('journalctl --update-catalog >/dev/null 2>&1');
systemctl('daemon-reload');
ok(scalar getpwnam('smtpd'), 'the user smtpd is there');

# Port 25 is this host's only, until the drop-in opens it.
my $sockets = systemctl(qw(show --property=Listen smtpd.socket));
is(join(' ', sort $sockets =~ /^Listen=(\S+)/mg), '127.0.0.1:25 [::1]:25',
    'port 25 is for this host only');
my ($world) = grep { -e }
    glob('/usr/{local/,}lib/systemd/system/smtpd.socket.d/world.conf.example');
mkdir '/etc/systemd/system/smtpd.socket.d';
symlink $world, '/etc/systemd/system/smtpd.socket.d/world.conf';
systemctl('daemon-reload');
$sockets = systemctl(qw(show --property=Listen smtpd.socket));
like($sockets, qr/^Listen=\S*:25/m, 'world.conf opens it');
unlike($sockets, qr/127\.0\.0\.1/, 'to every host');
unlink '/etc/systemd/system/smtpd.socket.d/world.conf';
systemctl('daemon-reload');

my ($said, $status) = systemctl(qw(enable --quiet --now smtpd.socket));
is($status, 0, 'smtpd.socket is enabled and started');

is(replies(talk(25, (message('to nobody yet'))[0 .. 2], 'QUIT')),
    '220 250 250 451 221', 'before a relay is set, mail is put off');

settings(SMTPD_RELAY => 'maildir:' . box('box'));
($said, $status) = run(qw(swaks --silent 2 --server 127.0.0.1 --port 25
    --helo client.example.com --from sender@example.com --to rcpt@example.org
    --header), 'Subject: by swaks');
is($status, 0, 'swaks hands over a message at port 25');
($said, $status) = run('python3', '-c', <<'.');
import smtplib
with smtplib.SMTP('127.0.0.1', 25, 'client.example.com') as s:
    s.sendmail('sender@example.com', ['rcpt@example.org'],
        'Subject: by smtplib\r\n\r\nbody\r\n')
.
is($status, 0, 'so does smtplib');
my @got = delivered('box');
is(scalar @got, 2, 'both are delivered');
for my $client (qw(swaks smtplib)) {
	is(scalar(grep { /^Subject: by $client$/m } @got), 1,
	    "$client\'s once");
}
ok(all_gone('smtpd'), 'after QUIT no instance is left');

# ---- the journal ------------------------------------------------------------

my @relayed = records("MESSAGE_ID=$id{'message-relayed'}");
is(scalar @relayed, 2, 'the journal has a record for each message');
my $record = $relayed[0] // {};
is($record->{SMTPD_CLIENT},    '127.0.0.1',          'SMTPD_CLIENT');
is($record->{SMTPD_HELO},      'client.example.com', 'SMTPD_HELO');
is($record->{SMTPD_SENDER},    'sender@example.com', 'SMTPD_SENDER');
is($record->{SMTPD_RECIPIENT}, 'rcpt@example.org',   'SMTPD_RECIPIENT');
is($record->{SMTPD_RELAY},     'maildir:/srv/box',   'SMTPD_RELAY');
like($record->{SMTPD_REPLY} // '', qr/^250 2\.0\.0 /,  'SMTPD_REPLY');
like($record->{SMTPD_SIZE} // '',  qr/^[1-9]\d+\z/,    'SMTPD_SIZE');
like($record->{SMTPD_QUEUE_ID} // '', qr/^\w+\z/,      'SMTPD_QUEUE_ID');
like($record->{_SYSTEMD_UNIT} // '', qr/^smtpd@.*127\.0\.0\.1/,
    'the record is its unit\'s');
is($record->{PRIORITY}, 6, 'and is no cause for alarm');
is(scalar(records("SMTPD_QUEUE_ID=$record->{SMTPD_QUEUE_ID}",
    "MESSAGE_ID=$id{'message-relayed'}")), 1, 'its queue id names it alone');
is(scalar(records("MESSAGE_ID=$id{refused}", 'SMTPD_RECIPIENT=rcpt@example.org')),
    1, 'the recipient that was put off has its own');
is(scalar(records("MESSAGE_ID=$id{session}")), 3,
    'and each session its summary');
like(scalar run(qw(journalctl --no-pager --quiet -x),
    "MESSAGE_ID=$id{'message-relayed'}"),
    qr/A message was relayed.*\n.*<sender\@example\.com>/s,
    'journalctl -x explains it');

# ---- STATUS= ----------------------------------------------------------------

my $s = connection(25);
ask($s);
ask($s, 'EHLO client.example.com');
ask($s, 'MAIL FROM:<waiting@example.com>');
my ($unit) = until_true(sub { instances('smtpd') });
my $text = until_true(sub {
	my $t = systemctl(qw(show --property=StatusText --value), $unit);
	return $t =~ /MAIL/ ? $t : ();
});
like($text // '', qr/127\.0\.0\.1.*waiting\@example\.com/,
    'systemctl status shows who is at which command');
like(scalar systemctl('status', 'smtpd@*'), qr/Status: ".*waiting\@example/,
    'as printed by systemctl status smtpd@*');

# ---- SIGTERM ----------------------------------------------------------------

systemctl(qw(stop --no-block), $unit);
like(ask($s), qr/^421 4\.3\.2 /, 'stopped while it waits, it says 421');
is(ask($s), '', 'and hangs up');
ok(all_gone('smtpd'), 'and is gone');

box('slow');
mkfifo($_, 0666) && chmod 0666, $_ for '/srv/slow/begun', '/srv/slow/go';
chmod 0777, '/srv/slow';
spew('/srv/slow/relay', <<'.');
echo begun >/srv/slow/begun
read line </srv/slow/go
cat >/srv/slow/message
.
settings(SMTPD_RELAY => '-- /bin/sh /srv/slow/relay');
$s = connection(25);
my @lines = message('slow');
for my $line (@lines[0 .. 3]) {
	ask($s);
	syswrite $s, "$line\r\n";
}
ask($s);
syswrite $s, $lines[4];
is(slurp('/srv/slow/begun'), "begun\n", 'a relay has begun');
($unit) = instances('smtpd');
systemctl(qw(stop --no-block), $unit);
until_true(sub {
	systemctl(qw(show --property=ActiveState --value), $unit) =~
	    /^deactivating/;
});
ok(!-e '/srv/slow/message', 'its unit is stopped before it is done');
open my $go, '+<', '/srv/slow/go' or die "go: $!\n";
syswrite $go, "go\n";
my $end = ask($s);
like($end, qr/^250 2\.0\.0 /, 'it is finished, and the client is told');
like($end . ask($s), qr/^421 4\.3\.2 /m, 'before the session is ended');
like(-e '/srv/slow/message' ? slurp('/srv/slow/message') : '', qr/^Subject: slow\n\nbody\n\z/m,
    'the message is whole');
ok(all_gone('smtpd'), 'and the instance gone');

# ---- limits -----------------------------------------------------------------

settings(SMTPD_RELAY => 'maildir:/srv/box');
my ($most) = systemctl(qw(show --property=MaxConnectionsPerSource --value
    smtpd.socket)) =~ /(\d+)/;
my @held = map { connection(25) } 1 .. $most;
is(scalar(grep { ask($_) =~ /^220 / } @held), $most,
    "$most clients from one address are served");
is(ask(connection(25)), '', 'one more is turned away');
like(ask(connection(25, '127.0.0.2')), qr/^220 /,
    'one from another address is not');
ask($_, 'QUIT') for @held;
ok(all_gone('smtpd'), 'when they leave, their instances are gone');
like(ask(connection(25)), qr/^220 /, 'and the address is welcome again');
@held = ();

# 200 clients, as fast as 8 hands can, each from an address of its own.
settings(SMTPD_RELAY => 'maildir:' . box('many'));
my @hands;
for my $hand (0 .. 7) {
	my $pid = fork // die "fork: $!\n";
	push @hands, $pid;
	next if $pid;
	my $bad = 0;
	for my $n (1 .. 25) {
		my $c = connection(25, "127.0.$hand.$n");
		$bad++ if replies(talk($c, message("$hand/$n"))) ne
		    '220 250 250 250 354 250 221';
	}
	POSIX::_exit($bad);
}
my $bad = 0;
for my $pid (@hands) {
	waitpid $pid, 0;
	$bad += $? >> 8;
}
is($bad, 0, '200 connections, each with a message: none is lost');
is(scalar(delivered('many')), 200, 'and each message is there');
ok(all_gone('smtpd'), 'and no instance');

# ---- what runs inside -------------------------------------------------------

# A program that would gain a group: not with the unit as shipped, but with
# the drop-in that is made for it.
system(q(cp /usr/bin/id /srv/slow/id && chgrp mail /srv/slow/id &&
    chmod 2755 /srv/slow/id)) == 0 or die;
spew('/srv/slow/setgid', "cat >/dev/null; /srv/slow/id -gn >/srv/slow/group\n");
settings(SMTPD_RELAY => '-- /bin/sh /srv/slow/setgid');
is(replies(talk(25, message('who'))), '220 250 250 250 354 250 221',
    'a program as a relay');
is(slurp('/srv/slow/group'), "smtpd\n", 'gains no group');
dropin('setgid');
talk(25, message('who'));
is(slurp('/srv/slow/group'), "mail\n", 'but with setgid.conf does');

settings(SMTPD_RELAY => 'maildir:' . box('hardened'));
dropin('hardened', 'ReadWritePaths=/srv/hardened');
is(replies(talk(25, message('hardened'))), '220 250 250 250 354 250 221',
    'with hardened.conf a message goes through');
is(scalar(delivered('hardened')), 1, 'and is delivered');
dropin();

# A wrong command line: the client learns nothing, the journal all.
settings(SMTPD_OPTIONS => '--no-such-option', SMTPD_RELAY => 'discard:');
is(ask(connection(25)), '', 'a wrong option ends the session unsaid');
ok(all_gone('smtpd'), 'and the instance');
like(join("\n", map { $_->{MESSAGE} } records(qw(-t smtpd))),
    qr/--no-such-option/, 'and the journal tells the option');

# As inetd has it: standard error is the client, the log goes to syslog.
settings(SMTPD_RELAY => 'discard:');
dropin('', "StandardError=socket\nSyslogIdentifier=other");
is(replies(talk(25, message('as inetd'))), '220 250 250 250 354 250 221',
    'where standard error is the client, it gets replies alone');
ok(all_gone('smtpd'), 'the session is over');
is(scalar(grep { /event=message-relayed/ } map { $_->{MESSAGE} }
    records(qw(-t smtpd _TRANSPORT=syslog))), 1, 'and syslog the record');
dropin();

# ---- TLS and submission -----------------------------------------------------

mkdir '/etc/smtpd', 0755;
system('openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=mail.example.com'
    . ' -keyout /etc/smtpd/tlskey -out /etc/smtpd/tlscert >/dev/null 2>&1') == 0
    or die "openssl\n";
my $hash = run(qw(openssl passwd -6 opensesame));
spew('/etc/smtpd/users', "jo:$hash");
chmod 0600, glob('/etc/smtpd/*');
settings(SMTPD_RELAY => 'discard:',
    SUBMISSION_RELAY => 'maildir:' . box('submitted'));
systemctl(qw(enable --quiet --now smtpd-submission.socket
    smtpd-submissions.socket));
my @swaks = qw(swaks --silent 3 --server 127.0.0.1 --from jo@example.com
    --to rcpt@example.org);
my @jo = qw(--auth PLAIN --auth-user jo --auth-password);
for (['STARTTLS at port 587', qw(--port 587 --tls)],
    ['TLS at port 465', qw(--port 465 --tls-on-connect)]) {
	my ($name, @tls) = @$_;
	($said, $status) = run(@swaks, @tls, @jo, 'opensesame');
	is($status, 0, "$name, with the key that root alone can read");
	($said, $status) = run(@swaks, @tls, @jo, 'wrong password');
	isnt($status, 0, "$name: not with a wrong password");
}
is(scalar(delivered('submitted')), 2, 'two messages are submitted');
# A relay program is the same user as smtpd; key and users are not for it.
spew('/srv/slow/thief', 'cat >/dev/null; for f in /etc/smtpd/tlskey '
    . '/etc/smtpd/users "$CREDENTIALS_DIRECTORY"/*; do '
    . 'cat "$f" 2>/dev/null; done | grep -a -e PRIVATE -e opensesame '
    . '-e "^jo:" >/srv/slow/loot; id -un >/srv/slow/user' . "\n");
settings(SMTPD_RELAY => 'discard:',
    SUBMISSION_RELAY => '-- /bin/sh /srv/slow/thief');
($said, $status) = run(@swaks, qw(--port 465 --tls-on-connect), @jo,
    'opensesame');
is($status, 0, 'a program as the relay of port 465');
is(slurp('/srv/slow/user'), "smtpd\n", 'runs as smtpd');
is(slurp('/srv/slow/loot'), '', 'and can read neither key nor users');
settings(SMTPD_RELAY => 'discard:',
    SUBMISSION_RELAY => 'maildir:' . '/srv/submitted');
like(replies(talk(587, message('in the clear'))), qr/^220 250 530 /,
    'and none in the clear');
all_gone('smtpd-submission');
all_gone('smtpd-submissions');
is(scalar(records("MESSAGE_ID=$id{'auth-ok'}", 'SMTPD_USER=jo')), 3,
    'the journal knows who');
is(scalar(records("MESSAGE_ID=$id{'auth-failed'}")), 2, 'and who was not');
unlike(join("\n", map { JSON::PP->new->encode($_) } records('-t', 'smtpd')),
    qr/opensesame|wrong password/, 'but no password');

dropin('tls');
($said, $status) = run(@swaks, qw(--port 25 --tls));
is($status, 0, 'with tls.conf there is STARTTLS at port 25');
dropin();

# ---- LMTP -------------------------------------------------------------------

settings(LMTP_RELAY => 'maildir:' . box('lmtp'));
systemctl(qw(enable --quiet --now smtpd-lmtp.socket));
is(sprintf('%04o', (stat '/run/smtpd/lmtp')[2] & 07777), '0660',
    'the LMTP socket is not for everybody');
$s = IO::Socket::UNIX->new(Peer => '/run/smtpd/lmtp') or die "lmtp: $!\n";
@lines = message('by LMTP');
splice @lines, 0, 1, 'LHLO client.example.com';
splice @lines, 2, 0, 'RCPT TO:<second@example.org>';
is(replies(talk($s, @lines)), '220 250 250 250 250 354 250 250 221',
    'over it, each recipient has a reply');
is(scalar(delivered('lmtp')), 1, 'and the message is delivered');
ok(all_gone('smtpd-lmtp'), 'and the instance gone');

# ---- the developer's catcher ------------------------------------------------

system(q(useradd --create-home --shell /bin/sh smtpd-dev)) == 0 or die "useradd\n";
my $uid = getpwnam 'smtpd-dev';
systemctl('start', "user\@$uid.service");
my @dev = (qw(runuser -u smtpd-dev -- env), "XDG_RUNTIME_DIR=/run/user/$uid");
($said, $status) = run(@dev, qw(systemctl --user enable --quiet --now
    smtpd-catch.socket));
is($status, 0, 'a user enables the catcher');
is(replies(talk(1025, message('caught'))), '220 250 250 250 354 250 221',
    'it takes a message');
@got = map { slurp($_) } glob('/home/smtpd-dev/Maildir-catch/new/*');
is(scalar @got, 1, 'keeps it in a Maildir under the home directory');
like($got[0], qr/^Subject: caught$/m, 'as it was sent');
is(scalar(records("_UID=$uid", "MESSAGE_ID=$id{'message-relayed'}",
    'SMTPD_RECIPIENT=rcpt@example.org')), 1, 'and has it in the journal');

# ---- the end ----------------------------------------------------------------

my ($figure) = systemctl('cat', 'smtpd@.service') =~
    /^# Exposure by systemd-analyze security: ([\d.]+)$/m;
my ($exposure) = run(qw(systemd-analyze security --no-pager),
    'smtpd@test.service') =~ /exposure level for .*?: ([\d.]+)/;
cmp_ok($exposure // 10, '<=', $figure, "exposure is at most $figure");
is(scalar(systemctl(qw(list-units --failed --plain --no-legend), 'smtpd*')), '',
    'nothing has failed');
my @failed = grep { /Failed with result/ && !/status=64/ } map { $_->{MESSAGE} }
    records('_PID=1', '-g', 'smtpd.*Failed with result');
is(scalar @failed, 1, 'nor had, but for the wrong option');
diag($_) for @failed > 1 ? @failed : ();
done_testing;
