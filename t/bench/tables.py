"""tables.py - the figures of bench.py: medians, tables, budgets, the plot, and
what README has of them."""
import os
import re
import statistics
import subprocess
import sys
import textwrap

from candidates import FILTERED, STUNNEL
from measure import CIPHER
from rig import Failed, find, read


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


class Results:
    """Every figure by candidate and column, a list of one a round."""

    def __init__(self):
        self.rows = {}
        self.failed = set()

    def add(self, name, column, value):
        self.rows.setdefault(name, {}).setdefault(column, []).append(value)

    def attempt(self, name, prefix, measure, *args):
        """Measures, unless that failed before, and keeps what comes out."""
        if (name, prefix) in self.failed:
            return
        try:
            values = measure(*args)
        except Failed as error:
            self.failed.add((name, prefix))
            say("%s (%s) is left out: %s" % (name, prefix, error))
            return
        if not isinstance(values, dict):
            values = {"": values}
        for column, value in values.items():
            self.add(name, (prefix + " " + column).strip(), value)

    def median(self, name, column):
        values = self.rows.get(name, {}).get(column)
        return statistics.median(values) if values else None

    def ratio(self, name, column, base):
        ours, theirs = self.median(name, column), self.median(base, column)
        return ours / theirs if ours and theirs else None

    def spread(self, name, column):
        """Half of what the middle half of the rounds spans, in per cent."""
        values = sorted(self.rows.get(name, {}).get(column) or [])
        if len(values) < 3:
            return None
        low, _, high = statistics.quantiles(values, n=4)
        return 50 * (high - low) / statistics.median(values)


# heading, column, how it is shown, unit's factor, whose it is divided by
COLUMNS = [
    ("us/conn", "small cpu", "%.0f", 1e6, None),
    ("xfloor", "small cpu", "%.2f", 1, "floor"),
    ("conn/s", "small rate", "%.0f", 1, None),
    ("sys:us", "activate cpu", "%.0f", 1e6, None),
    ("xfloor", "activate cpu", "%.2f", 1, "floor"),
    ("MB/cpu-s", "bulk mbcpu", "%.0f", 1, None),
    ("xfloor", "bulk mbcpu", "%.2f", 1, "floor"),
    ("MB/s", "bulk mbs", "%.0f", 1, None),
    ("KiB", "pss", "%.0f", 1, None),
    ("calls", "calls", "%.0f", 1, None),
    ("faults", "small faults", "%.0f", 1, None),
    ("kB", "size", "%.0f", 1e-3, None),
]

LEGEND = """\
us/conn: microseconds of CPU, user and system, of the listener and all its
children, for a connection with one message of 1 kB; +-%: half the quartiles'
span.  conn/s: ten at a time, by the clock.  sys: the same under
systemd-socket-activate.  MB/cpu-s, MB/s: messages of 10 MB, by CPU and by the
clock.  KiB: memory of an idle connection, shared pages in proportion.  calls,
faults: system calls and page faults of one session (faults with those of the
super-server's fork).  kB: the stripped program.  xfloor: ratio to "floor"."""

TLS_LEGEND = """\
TLS 1.3, %s, P-256 for key exchange and certificate,
no client certificate; every handshake is a full one, but for "resumed", each
with a ticket of the engine that stays.  Four sessions at a time.  us/session:
CPU of a session with STARTTLS and no message, of the server and all its
children; plain:us: the same without TLS (of the floor, where stunnel is in
front of it); TLS:us: what TLS adds.  hands/s: sessions by the clock.  MB/cpu-s,
MB/s: messages of 10 MB.  xstunnel: ratio to "%s".  Postfix's
processes are there already and serve a hundred sessions each; with max_use=1
they are new for each, as those of the others are.  Postfix hands on to
smtp-sink without a queue, by its smtpd_proxy_filter, as "smtpd smtp:" does;
smtp-sink is not counted.""" % (CIPHER, STUNNEL)

FILTER_LEGEND = """\
Messages in a second of the server's CPU, four connections at a time.  kept:
messages of 1 kB, all over these four; the others one a connection.  x: ratio to
"%s".  The filter is libmilter's, in C, and
continues at every step; its CPU is not counted.  Postfix has its processes
already, and a queue: to its discard(8), or over SMTP to smtp-sink, as
"smtpd smtp:".""" % FILTERED

LOOP_LEGEND = """\
msg/cpu-s: messages in a second of CPU, user and system, of the server; xloop:
ratio to t/examples/loop.c's.  msg/s: by the clock.  loop.c, aiosmtpd (Sink) and
smtp-sink are one process; smtpd is one for each connection, here with its
super-server; Postfix hands on to smtp-sink, which is not counted, without a
queue, by its smtpd_proxy_filter."""

DISTANCE_LEGEND = """\
A session with one message of 1 kB for so many recipients, from connect() to the
reply to QUIT; MAIL, RCPT and DATA go out together, or, by turns, each waits for
the reply to the one before.  dot: to the reply to the message.  straight: the
client is itself that far from smtp-sink; smtpd is where the client is.  Without
--live the next hop's time begins at the end of the message."""

ACCEPT_LEGEND = """\
ms CPU: of everything in the container but the client, so of the manager and
the journal, too.  ms: from connect() to end of file.  bare unit: nothing but
StandardInput=socket; the others are the units that are shipped, without and
with hardened.conf."""


def figure(results, name, column):
    _, key, form, factor, base = column
    value = (results.ratio(name, key, base) if base
             else results.median(name, key))
    return "-" if value is None else form % (value * factor)


def show(headings, lines, path):
    """The same table twice: for the eye, and for gnuplot and friends."""
    wide = [max(len(line[i]) for line in [headings] + lines)
            for i in range(len(headings))]
    for line in [headings] + lines:
        print("  ".join(cell.ljust(wide[0]) if i == 0 else cell.rjust(wide[i])
                        for i, cell in enumerate(line)))
    with open(path, "w", encoding="utf-8") as file:
        for line in [headings] + lines:
            file.write("\t".join(line) + "\n")
    sys.stdout.flush()


def show_main(results, folder):
    lines = []
    for name in results.rows:
        cells = [figure(results, name, column) for column in COLUMNS]
        spread = results.spread(name, "small cpu")
        cells.insert(1, "-" if spread is None else "%.0f" % spread)
        lines.append([name] + cells)
    headings = ["candidate"] + [column[0] for column in COLUMNS]
    headings.insert(2, "+-%")
    print()
    show(headings, lines, folder + "/table.tsv")
    print("\n" + LEGEND)


def print_budgets(lines):
    if lines:
        print()
        for what, budget, value in lines:
            print("%-44s %-24s %8s" % (what, budget, value))


def show_tls_budgets(results, beside):
    lines = []
    for name in ("smtpd, resident", "smtpd, resumed"):
        both = [results.median(name, key + " cpu") for key in ("shake",
                                                               "plain")]
        if None not in both:
            lines.append([name + ", CPU / without TLS", "<= 2",
                          "%.2f" % (both[0] / both[1])])
    for label, _ in beside:
        ratio = results.ratio("smtpd discard:", "more", label + " discard:")
        if ratio is not None:
            lines.append(["TLS:us of smtpd / of " + label, "",
                          "%.2f" % ratio])
    for label in [label for label, _ in beside if label != "static"]:
        ratio = results.ratio("static discard:", "more", label + " discard:")
        if ratio is not None:
            lines.append(["TLS:us of static / of " + label, "",
                          "%.2f" % ratio])
    print_budgets(lines)


def show_budgets(results):
    """What a connection may cost, and what was measured just now."""
    lines = []

    def line(what, budget, value, form="%.2f"):
        if value is not None:
            lines.append([what, budget, form % value])

    for name, budget in (("smtpd discard:", "<= 1.5"),
                         ("smtpd smtp:", "<= 1.95"),
                         ("static discard:", "<= 1.05"),
                         ("static smtp:", "<= 1.45")):
        line(name + ", CPU of a connection / floor's", budget,
             results.ratio(name, "small cpu", "floor"))
    line("--live smtp:, CPU of a connection / smtp:'s", "<= 1.1",
         results.ratio("smtpd --live smtp:", "small cpu", "smtpd smtp:"))
    parts = [results.median(name, "small cpu") for name in (
        "smtpd -- /bin/true", "smtpd discard:", "floor + /bin/true", "floor")]
    if None not in parts:
        line("-- /bin/true / (discard: + a fork and exec)", "<= 1.15",
             parts[0] / (parts[1] + parts[2] - parts[3]))
    line("10 MB, discard: / plain read loop, MB/s", ">= 1.0",
         results.ratio("smtpd discard:", "bulk mbs", "floor"))
    line("the same, MB/cpu-s", "",
         results.ratio("smtpd discard:", "bulk mbcpu", "floor"))
    for name, memory, size in (("smtpd", 200, 200), ("static", 165, 280)):
        if not results.rows.get(name + " discard:"):
            continue
        for relay in (" discard:", " smtp:"):
            line("KiB of an idle connection, " + name + relay,
                 "<= %d" % memory, results.median(name + relay, "pss"), "%.0f")
        line("kB of " + name + ", stripped", "<= %d" % size,
             (results.median(name + " discard:", "size") or 0) / 1000, "%.1f")
    print_budgets(lines)


PLOT = """\
set terminal svg size 960,%d font "sans,13" background "white"
set output "%s/bench.svg"
set datafile separator "\\t"
set datafile missing "-"
set multiplot
set origin 0,%g
set size 1,%g
set title "CPU of a connection with one message of 1 kB; the floor's is 1"
set style fill solid 0.7 noborder
set xrange [0:*]
set offsets 0, 0.6, 0, 0
set yrange [%d.6:-0.6]
set xtics 1
set grid x
unset key
table = "%s/table.tsv"
plot table every ::1 using (0):0:(0):4:($0-0.35):($0+0.35):ytic(1) \\
    with boxxyerror lc rgb "#3b6ea5", \\
  table every ::1 using 4:0:4 with labels offset 3,0
"""

PLOT_SCALE = """\
set origin 0,0
set size 1,%g
set title "CPU of a connection in microseconds, by connections at a time"
set logscale x
set xrange [0.9:500]
set yrange [0:*] noreverse
set xtics (1, 10, 50, 100, 200, 400)
set ytics auto
set key right bottom
plot for [i=2:%d] "%s/scale.tsv" using 1:i with linespoints title columnheader
"""


def plot(rows, scales, folder):
    if find("gnuplot") is None:
        say("no plot: gnuplot is missing")
        return
    part = 0.4 if scales else 0
    script = PLOT % (120 + 28 * rows + (300 if scales else 0), folder, part,
                     1 - part, rows - 1, folder)
    if scales:
        script += PLOT_SCALE % (part, scales + 1, folder)
    subprocess.run(["gnuplot"], input=script.encode(), check=False)
    say("plot: %s/bench.svg" % os.path.relpath(folder))


# README's tables: the heading of the first column, the file, the columns by
# number, the rows that are left out, and whether rows become columns.
README = [
    ("A message of 1 kB", "table.tsv", (1, 3, 4, 7, 9, 10, 11, 13),
     ("floor, static", "floor + /bin/true"), False),
    ("STARTTLS", "tls.tsv", (1, 2, 4, 5, 6, 8), (), False),
    ("Beside a filter", "filter.tsv", (1, 2, 4, 6), (), False),
    ("1 kB, connections stay open", "loop.tsv", (1, 2, 3), (), False),
    ("A next hop 20 ms away", "distance.tsv", (1, 2, 3, 4, 5, 6, 7, 8), (),
     False),
    ("1 kB, one after the other", "systemd.tsv", (1, 2, 3, 4), (), False),
    ("us/conn, so many at a time", "scale.tsv", (1, 2, 3), (), True),
    ("A message of so many MB", "large.tsv", (1, 2), (), True),
]


def readme_table(folder, heading, name, columns, without, turn):
    rows = [line.split("\t") for line in
            read(folder + "/" + name).splitlines()]
    rows[0][0] = heading
    rows = [[row[i] for i in (0, *columns) if i < len(row)] for row in rows
            if row[0] not in without]
    if turn:
        rows = list(zip(*rows))
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("    " + "  ".join(
        cell.rjust(wide[i]) if i else cell.ljust(wide[0])
        for i, cell in enumerate(row)) for row in rows)


def fill_in(path, folder):
    """Puts what the last run found where README has what another found."""
    cpus = re.findall(r"^model name\s*: (.*)$", read("/proc/cpuinfo"),
                      re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', read("/etc/os-release"),
                       re.MULTILINE)
    parts = [textwrap.fill("Measured with %d x %s, Linux %s, %s:" % (
        os.cpu_count(), cpus[0] if cpus else os.uname().machine,
        os.uname().release.partition("-")[0],
        system.group(1) if system else "?"), 79)]
    for table in README:
        try:
            parts.append(readme_table(folder, *table))
        except OSError as error:
            sys.exit("bench: %s: %s; run all parts first" % (
                error.filename, error.strerror))
    text, count = re.subn(r"^Measured with\b.*?(?=\n\n\n)",
                          lambda _: "\n\n".join(parts), read(path), count=1,
                          flags=re.MULTILINE | re.DOTALL)
    if not count:
        sys.exit("bench: %s: no section to fill in" % path)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
