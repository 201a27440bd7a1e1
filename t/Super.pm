# What the tests with real super-servers share: finding and starting one,
# talking to what it starts, and looking at each octet that comes back.
package Super;
use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use POSIX ();
use Test::More import => [qw(is like unlike)];

our @EXPORT = qw($top $smtpd $scratch tool start await free_port example
    spew slurp skip_all talk message replies services conversations);

our $top     = abs_path(dirname(__FILE__) . '/..');
our $smtpd   = abs_path($ENV{SMTPD} // "$top/smtpd");
our $scratch = tempdir(CLEANUP => 1);
my $me = $$;
my @started;

# A test that hangs has failed; nothing here is measured by the clock.
$SIG{ALRM} = sub { die "nothing more happens\n" };
alarm 120;

END {
	my $status = $?;
	if ($$ == $me) {
		kill KILL => $_ for @started;
		waitpid $_, 0 for @started;
	}
	$? = $status;
}

sub skip_all {
	print "1..0 # SKIP @_\n";
	exit 0;
}

sub spew {
	my ($path, $text) = @_;
	open my $f, '>', $path or die "$path: $!\n";
	print $f $text;
	close $f or die "$path: $!\n";
	return $path;
}

sub slurp {
	open my $f, '<:raw', $_[0] or die "$_[0]: $!\n";
	local $/;
	return scalar <$f>;
}

# The path of a program: where the system has it, or out of its package,
# which is not installed (inetd and xinetd exclude each other).
sub tool {
	my ($package, $path) = @_;
	my ($name) = $path =~ m{([^/]+)$};
	for my $dir (split(/:/, $ENV{PATH}), '/usr/sbin', '/sbin') {
		return "$dir/$name" if -x "$dir/$name";
	}
	chmod 0755, $scratch;
	my $got = `cd $scratch && apt-get download $package 2>&1` // '';
	my ($deb) = glob("$scratch/${package}_*.deb");
	skip_all("$name is not installed, nor can package $package be fetched")
	    if !$deb;
	system('dpkg', '-x', $deb, "$scratch/$package") == 0
	    or die "$deb can not be unpacked\n";
	my ($lib) = `ldd $scratch/$package/$path` =~ /(\S+) => not found/;
	skip_all("$name needs $lib, which is not installed") if $lib;
	return "$scratch/$package/$path";
}

# Starts a server in the foreground; what it writes can be awaited.  Environment
# is as usual but for the journal, whose reader we are not.
sub start {
	pipe my $out, my $in or die "pipe: $!\n";
	my $pid = fork // die "fork: $!\n";
	if ($pid == 0) {
		alarm 0;
		open STDIN,  '<',  '/dev/null' or die;
		open STDOUT, '>&', $in or die;
		open STDERR, '>&', $in or die;
		delete @ENV{qw(JOURNAL_STREAM NOTIFY_SOCKET)};
		exec @_ or POSIX::_exit(127);
	}
	close $in;
	push @started, $pid;
	return { pid => $pid, out => $out, text => '', seen => 0 };
}

# Waits until the server wrote a line that matches, behind the last one that
# was awaited.  Returns what the first parentheses matched.
sub await {
	my ($server, $like) = @_;
	for (;;) {
		pos($server->{text}) = $server->{seen};
		if ($server->{text} =~ /$like/g) {
			$server->{seen} = pos $server->{text};
			return $1 // 1;
		}
		sysread($server->{out}, $server->{text}, 65536,
		    length $server->{text})
		    or die "ended before it wrote $like:\n$server->{text}";
	}
}

sub free_port {
	my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1',
	    ReuseAddr => 1) or die "no port: $!\n";
	return $s->sockport;
}

# An example of units/ with other words in place of some of its own: each has
# to be there, or the example is not what is tried.
sub example {
	my ($file, %words) = @_;
	my $text = slurp("$top/units/$file");
	for my $word (sort { length $b <=> length $a } keys %words) {
		$text =~ s/\Q$word\E/$words{$word}/g
		    or die "units/$file has no $word\n";
	}
	return $text;
}

# Sends lines, each after the reply to the one before, and returns every
# octet that came back until the server hung up.  undef instead of a line:
# hang up ourselves.
sub talk {
	my ($where, @lines) = @_;
	my $s = ref $where ? $where
	    : IO::Socket::INET->new(PeerAddr => '127.0.0.1',
		PeerPort => $where) or die "port $where: $!\n";
	my $got = '';
	my $from = 0;
	local $SIG{PIPE} = 'IGNORE';
	for my $line (@lines) {
		until (substr($got, $from) =~ /^\d{3}(?: [^\n]*)?\r\n\z/m) {
			sysread($s, $got, 65536, length $got) or return $got;
		}
		$from = length $got;
		if (!defined $line) {
			shutdown $s, 1;
			last;
		}
		syswrite $s, $line =~ /\n\z/ ? $line : "$line\r\n";
	}
	while (sysread($s, $got, 65536, length $got)) { }
	return $got;
}

# The lines of a session with one message.
sub message {
	my ($subject, %more) = @_;
	return ('EHLO client.example.com',
	    'MAIL FROM:<sender@example.com>',
	    'RCPT TO:<' . ($more{to} // 'rcpt@example.org') . '>', 'DATA',
	    "Subject: $subject\r\n\r\nbody\r\n.\r\n", 'QUIT');
}

# The codes of the replies, if every octet is part of one; else the first
# line that is none.
sub replies {
	my ($got) = @_;
	my @codes;
	while ($got =~ /\G([^\n]*\n?)/gc && length $1) {
		my $line = $1;
		return "not a reply: $line"
		    if $line !~ /^(\d{3})([ -])[\x20-\x7e]*\r\n\z/;
		push @codes, $1 if $2 eq ' ';
	}
	return join ' ', @codes;
}

# What the services of each super-server are: name, smtpd's arguments.
sub services {
	my $box = "$scratch/Maildir";
	chmod 0755, $scratch;
	mkdir $box, 0700;
	my $nobody = getpwnam 'nobody';
	chown $nobody, -1, $box if $< == 0;
	my $program = spew("$scratch/program", <<'.');
cat >/dev/null
echo NOISE on standard error >&2
echo taken
echo NOISE on standard output
.
	return (
		plain  => "maildir:$box",
		chatty => "--debug -- /bin/sh $program",
		wrong  => "--no-such-option maildir:$box",
	);
}

# The same conversations with each super-server's services, on these ports.
# The records of all that happens here may go anywhere but to the client.
sub conversations {
	my (%port) = @_;
	my $box = "$scratch/Maildir/new";

	is(replies(talk($port{plain}, message('through a super-server'))),
	    '220 250 250 250 354 250 221', 'a message is taken');
	my @got = map { slurp($_) } glob("$box/*");
	is(scalar @got, 1, 'and delivered once');
	like($got[0], qr/^Subject: through a super-server\n\nbody\n\z/m,
	    'as it was sent');
	like($got[0], qr/^Received: from client\.example\.com .*\[127\.0\.0\.1\]/m,
	    'and traced to its client');

	my $log = qr/event=|NOISE|smtpd:|option/;
	my $bytes = talk($port{chatty}, message('to a program that talks'));
	is(replies($bytes), '220 250 250 250 354 250 221',
	    'with all of the log on, the client gets replies');
	unlike($bytes, $log, 'and nothing else');

	my @lost = message('lost half-way');
	$bytes = talk($port{plain}, @lost[0 .. 3], undef);
	is(replies($bytes), '220 250 250 250 354',
	    'a client that goes away in its message hears no more');
	is(scalar(() = glob("$box/*")), 1, 'and nothing of it is delivered');

	is(talk($port{wrong}), '', 'a wrong command line tells it nothing');
}

1;
