#!/usr/bin/perl
# The units as they are shipped, without starting any: systemd-analyze finds
# nothing in them, and what they say of themselves is true.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Super;
use Test::More;

my $analyze = '/usr/bin/systemd-analyze';
skip_all("$analyze is not installed") if !-x $analyze;

# As installed, but all in one place and with a program that is there.
my $units = "$scratch/units";
mkdir $units;
my (%text, %dropin);
for my $path (glob("$top/units/*.socket $top/units/*.service")) {
	my ($name) = $path =~ m{([^/]+)$};
	$text{$name} = slurp($path);
	spew("$units/$name", $text{$name} =~ s{\@SBINDIR\@/smtpd}{/bin/true}gr);
}
for my $path (glob("$top/units/smtpd\@.service.d/*.example")) {
	my ($name) = $path =~ m{([^/]+)\.conf\.example$};
	$dropin{$name} = slurp($path);
}

# systemd-analyze on a unit, with a drop-in or without: its output and status.
sub analyze {
	my ($unit, $dropin, @command) = @_;
	mkdir "$units/$unit.d";
	unlink glob("$units/$unit.d/*");
	spew("$units/$unit.d/local.conf",
	    $dropin{$dropin} =~ s{\@SBINDIR\@/smtpd}{/bin/true}gr) if $dropin;
	my $said = `cd $units && $analyze @command ./$unit 2>&1`;
	unlink glob("$units/$unit.d/*");
	return ($said, $?);
}

sub exposure {
	my ($said) = analyze(@_, qw(security --offline=yes --no-pager));
	return $said =~ /exposure level for .*?: ([\d.]+)/ ? $1 : $said;
}

# The events that are named where something is logged.
sub events {
	my %seen;
	for my $file (glob("$top/*.c $top/src/*/*.c")) {
		my $code = slurp($file);
		$seen{$1} = 1 while $code =~
		    /\b(?:logger_printf|session_log|ask_log|log_reply)\(
		    [^;]*?LOG_[A-Z]+,\s*"([a-z-]+)"/gx;
	}
	return sort keys %seen;
}

for my $unit (sort keys %text) {
	my ($said, $status) = analyze($unit, undef, qw(verify --man=no));
	is("$status $said", '0 ', "$unit: systemd has no complaint");
}
for my $name (sort keys %dropin) {
	my ($said, $status) = analyze('smtpd@.service', $name,
	    qw(verify --man=no));
	is("$status $said", '0 ', "$name.conf: systemd has no complaint");
}

# The figures in the comments.
my $figure = qr/^# Exposure by systemd-analyze security: ([\d.]+)$/m;
my ($shipped)  = $text{'smtpd@.service'} =~ $figure;
my ($hardened) = $dropin{hardened} =~ $figure;
my @system = grep { /service$/ && !/catch/ } sort keys %text;
is(scalar @system, 4, 'four system services');
for my $unit (@system) {
	my ($most) = $text{$unit} =~ $figure;
	$most //= $shipped;
	cmp_ok(exposure($unit, undef), '<=', $most,
	    "$unit: exposure is at most $most");
}
cmp_ok(exposure('smtpd@.service', 'hardened'), '<=', $hardened,
    "hardened: exposure is at most $hardened");

# systemd has no include: what confines is written four times.  Where smtpd
# itself changes the user, it keeps the two capabilities for that.
sub block {
	my ($text) = @_;
	$text =~ s/^CapabilityBoundingSet=\KCAP_SETUID CAP_SETGID$//m;
	return join "\n", grep { /^[A-Z]/ && !/^User=/ }
	    split /\n/, $text =~ s/.*(?=^StandardInput=)//msr;
}
is(block($text{$_}), block($text{'smtpd@.service'}),
    "$_ is confined like the others") for @system;
like($text{$_}, qr/^User=smtpd$|^ExecStart=\S+ --user smtpd /m,
    "$_ does not serve as root") for @system;
like($text{$_}, qr/^StandardError=journal$/m,
    "$_: standard error is not the client") for grep { /service$/ } keys %text;

# Each kind of event has its explanation, and none is left over.
my $catalog = slurp("$top/units/smtpd.catalog");
my @explained = sort { $a cmp $b } $catalog =~ /^-- ([0-9a-f]{32})$/mg;
my $table = slurp("$top/src/session/log.c");
my %sent = map { $_ => 1 } $table =~ /"([0-9a-f]{32})"/g;
my @sent = sort { $a cmp $b } keys %sent;
is("@explained", "@sent", 'the catalog explains the events that there are');

my %named = map { $_ => 1 } $table =~ /\{ "([a-z-]+)", "[0-9a-f]{32}"/g;
my @astray = grep { !$named{$_} } $catalog =~ /records "([a-z-]+)"/g;
is("@astray", '', 'and sends nobody to events that there are not');
my @plain = qw(dialogue);
my @stray = grep { !$named{$_} } events();
is("@stray", "@plain", 'and these alone need none: their text says it all');

done_testing;
