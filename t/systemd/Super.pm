# What the scripts in the container share: files, and talking to a server while
# each octet that comes back is looked at.
package Super;
use strict;
use warnings;
use Exporter 'import';
use IO::Socket::INET;

our @EXPORT = qw(spew slurp talk message replies);

# A test that hangs has failed; nothing here is measured by the clock.
$SIG{ALRM} = sub { die "nothing more happens\n" };
alarm 120;

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

1;
