#!/usr/bin/env python3
"""What a connection costs: smtpd, its peers, and the floor, side by side.

Every candidate runs under the same super-server and gets the same load from
Postfix's smtp-source.  A measurement starts a listener, loads it, waits until
its children are gone, ends it, and asks wait4(2) what it and all of them used;
what was used before the load is taken off.  Candidates take turns, round by
round, so that noise from elsewhere hits all alike, and what is shown are the
medians and their ratios.  The load's own cost is in no column but those by the
clock.

Nothing here passes or fails.  It listens on 127.0.0.1 alone, and ends whatever
it started, also when it is interrupted.
"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import distance
from candidates import (FILTERED, PROXY_CF, STUNNEL, candidates, copied,
                        filter_candidates, postfix, tls_candidates)
from measure import (MB, binary_size, calls, client_context, filtered, idle,
                     load, stream, tls)
from rig import (HERE, OUT, PATH, TCPSERVER, TOP, Candidate, Failed, Filter,
                 Hop, Watch, become_reaper, end_all, find, source, under)
from tables import (ACCEPT_LEGEND, DISTANCE_LEGEND, FILTER_LEGEND, LOOP_LEGEND,
                    TLS_LEGEND, Results, figure, fill_in, plot, say, show,
                    show_budgets, show_main, show_tls_budgets)

DISTANCE = 0.02         # seconds from here to the next hop, one way
LOOP = "examples/loop.c"
BULK = ("floor", "smtpd discard:")
ACTIVATE = ["systemd-socket-activate", "--accept", "--inetd", "-l",
            "127.0.0.1:{port}"]


def rounds(what, most, args, share):
    """Counts them.  On a slow machine there are fewer, so that a part takes
    its share of the minutes, but not fewer than three."""
    end = time.monotonic() + 60 * args.minutes * share
    for turn in range(most):
        if turn >= 3 and time.monotonic() > end:
            say("%s: %d rounds are what there is time for" % (what, turn))
            return
        say("%s, round %d of %d" % (what, turn + 1, most))
        yield turn


def main_part(args, tmp, everyone, folder):
    results = Results()
    for candidate in everyone:
        name = candidate.name
        say("counting " + name)
        results.attempt(name, "pss", idle, candidate, tmp)
        if find("strace"):
            results.attempt(name, "calls", calls, candidate, tmp, folder)
        try:
            results.add(name, "size", binary_size(candidate, tmp))
        except Failed:
            pass
    for turn in rounds("main", args.rounds, args, 0.5):
        for candidate in everyone:
            name = candidate.name
            results.attempt(name, "small", load, candidate, tmp, args.sessions,
                            10, 1024)
            if find(ACTIVATE[0]) and not candidate.serves:
                results.attempt(name, "activate", load, candidate, tmp,
                                args.sessions, 10, 1024, ACTIVATE)
            # Of the two that a budget compares there is more to see.
            if turn % 3 == 0 or args.quick or name in BULK:
                results.attempt(name, "bulk", load, candidate, tmp, args.bulk,
                                1, 10 * MB)
    show_main(results, folder)
    show_budgets(results)
    return results


def scale_part(args, tmp, everyone, folder):
    """Does a connection cost more where there are many?"""
    some = [c for c in everyone if c.name in (
        "floor", "smtpd discard:", "smtpd smtp:", "mailfront")]
    steps = [1, 100] if args.quick else [1, 10, 50, 100, 200, 400]
    results = Results()
    for _ in rounds("scale", max(1, args.rounds // 3), args, 0.15):
        for step in steps:
            for candidate in some:
                results.attempt(candidate.name, str(step), load, candidate,
                                tmp, max(args.sessions, 2 * step), step, 1024)
    lines = [[str(step)] + ["-" if results.median(c.name, "%d cpu" % step)
                            is None else "%.0f" % (
                                1e6 * results.median(c.name, "%d cpu" % step))
                            for c in some] for step in steps]
    print("\nMicroseconds of CPU of a connection, by connections at a time:")
    show(["at a time"] + [c.name for c in some], lines, folder + "/scale.tsv")
    return len(some)


def large_part(tmp, everyone, folder):
    """Is time proportional to the message, and memory not?"""
    lines = []
    for candidate in everyone:
        if candidate.name != "smtpd discard:":
            continue
        candidate = Candidate(candidate.name, [candidate.argv[0], "--size",
                                               "0", "discard:"])
        for length in (1, 10, 100, 1000):
            say("a message of %d MB" % length)
            try:
                with under(TCPSERVER, candidate, Hop(None), tmp) as it:
                    with Watch(it.pid) as watch:
                        source(it.port, 1, 1, length * MB)
            except Failed as error:
                say("left out: %s" % error)
                continue
            lines.append([str(length), "%.2f" % (1000 * it.cpu / length),
                          str(watch.most or "-")])
    if lines:
        print("\nOne message, smtpd discard:")
        show(["MB", "ms CPU/MB", "KiB of a process"], lines,
             folder + "/large.tsv")


def tls_part(args, tmp, missing, folder):
    results = Results()
    context = client_context()
    some = [c for c in tls_candidates(args, tmp, missing)
            if re.search(args.only, c.name)]
    for _ in rounds("STARTTLS", max(3, args.rounds // 2), args, 0.2):
        for candidate in some:
            name = candidate.name
            results.attempt(name, "shake", tls, candidate, tmp, 40, 0, context)
            results.attempt(name, "plain", tls, candidate.plain, tmp, 40, 0,
                            None)
            results.attempt(name, "bulk", tls, candidate, tmp, 4, 10 * MB,
                            context)
    for name in results.rows:
        both = [results.median(name, key) for key in ("shake cpu",
                                                      "plain cpu")]
        if None not in both:
            results.add(name, "more", both[0] - both[1])
    form = [("us/session", "shake cpu", "%.0f", 1e6, None),
            ("xstunnel", "shake cpu", "%.2f", 1, STUNNEL),
            ("plain:us", "plain cpu", "%.0f", 1e6, None),
            ("TLS:us", "more", "%.0f", 1e6, None),
            ("hands/s", "shake rate", "%.0f", 1, None),
            ("MB/cpu-s", "bulk mbcpu", "%.0f", 1, None),
            ("xstunnel", "bulk mbcpu", "%.2f", 1, STUNNEL),
            ("MB/s", "bulk mbs", "%.0f", 1, None)]
    if results.rows:
        print("\nSTARTTLS:")
        show(["candidate"] + [column[0] for column in form],
             [[name] + [figure(results, name, column) for column in form]
              for name in results.rows], folder + "/tls.tsv")
        show_tls_budgets(results, args.beside)
        print("\n" + TLS_LEGEND)


def filter_part(args, tmp, missing, folder):
    """What a mail filter costs."""
    path = copied(OUT + "/filter", tmp)
    if path is None:
        missing.append("the filter (libmilter-dev)")
        return
    results = Results()
    loads = (("1kB", 1024), ("kept", 1024, "-d"), ("100kB", 102400))
    with Filter(path) as it:
        some = filter_candidates(tmp, it.port, missing)
        for _ in rounds("filter", max(3, args.rounds // 2), args, 0.2):
            for candidate in some:
                for label, *how in loads:
                    results.attempt(candidate.name, label, filtered, candidate,
                                    tmp, args.sessions, *how)
    for name in results.rows:
        for label, *_ in loads:
            cpu = results.median(name, label + " cpu")
            if cpu:
                results.add(name, label, 1 / cpu)
    form = [column for label, *_ in loads for column in (
        (label + "/cpu-s", label, "%.0f", 1, None),
        ("x" + label, label, "%.2f", 1, FILTERED))]
    if results.rows:
        print("\nBeside a mail filter:")
        show(["candidate"] + [column[0] for column in form],
             [[name] + [figure(results, name, column) for column in form]
              for name in results.rows], folder + "/filter.tsv")
        print("\n" + FILTER_LEGEND)


def loop_part(args, tmp, everyone, missing, folder):
    """One process for many clients: t/examples/loop.c beside its peers."""
    loop = copied(TOP + "/t/out/loop", tmp)
    if loop is None:
        missing.append("t/out/loop")
        return
    some = [Candidate(LOOP, [loop, "{port}"], serves=True)]
    some += [c for c in everyone if c.name in ("aiosmtpd", "smtp-sink",
                                               "smtpd discard:")]
    mta = postfix(tmp, 1000, "Postfix", PROXY_CF)
    if mta is None:
        missing.append("Postfix (as root)")
    else:
        some.append(mta)
    results = Results()
    for _ in rounds("loop", max(3, args.rounds // 2), args, 0.1):
        for candidate in some:
            results.attempt(candidate.name, "", stream, candidate, tmp,
                            10 * args.sessions, 10)
    form = [("msg/cpu-s", "cpurate", "%.0f", 1, None),
            ("xloop", "cpurate", "%.2f", 1, LOOP),
            ("msg/s", "rate", "%.0f", 1, None)]
    if results.rows:
        print("\nMessages of 1 kB on ten connections that stay open:")
        show(["candidate"] + [column[0] for column in form],
             [[name] + [figure(results, name, column) for column in form]
              for name in results.rows], folder + "/loop.tsv")
        print("\n" + LOOP_LEGEND)


def distance_part(args, tmp, folder):
    """What --live adds to the time of a client whose next hop is far."""
    smtpd = tmp + "/smtpd"
    if not os.access(smtpd, os.X_OK):
        return
    ways = [("straight", None), ("smtpd --live", ["--live"]), ("smtpd", [])]
    loads = [("1", 1, True), ("100", 100, True), ("20 by turns", 20, False)]
    results = Results()

    def measure(options, recipients, pipelined):
        with Hop([]) as hop, distance.Far(hop.port, DISTANCE) as far:
            try:
                if options is None:
                    times = distance.session(far.port, recipients, pipelined)
                else:
                    way = Candidate("", [smtpd, *options,
                                         "smtp:[127.0.0.1]:%d" % far.port])
                    with under(TCPSERVER, way, hop, tmp) as it:
                        times = distance.session(it.port, recipients,
                                                 pipelined)
            except OSError as error:
                raise Failed(str(error)) from error
        return dict(zip(("dot", "quit"), times))

    for _ in rounds("distance", max(3, args.rounds // 3), args, 0.1):
        for name, options in ways:
            for load_name, recipients, pipelined in loads:
                results.attempt(name, load_name, measure, options, recipients,
                                pipelined)
    form = [column for load_name, *_ in loads for column in (
        (load_name, load_name + " quit", "%.0f", 1e3, None),
        ("ratio", load_name + " quit", "%.2f", 1, "straight"))]
    form += [("dot", "100 dot", "%.0f", 1e3, None),
             ("ratio", "100 dot", "%.2f", 1, "straight")]
    print("\nMilliseconds of a session whose next hop is %.0f ms away:"
          % (1000 * DISTANCE))
    show(["by way of"] + [column[0] for column in form],
         [[name] + [figure(results, name, column) for column in form]
          for name, _ in ways], folder + "/distance.tsv")
    print("\n" + DISTANCE_LEGEND)


def systemd_part(tmp, missing, folder):
    """What Accept=yes costs, in a container; see accept.py."""
    say("systemd: boots in a container, which takes about a minute")
    done = subprocess.run([TOP + "/t/systemd/boot.sh", HERE + "/accept.py"],
                          env={"PATH": PATH, "RIG_FILES": tmp + "/floor"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True, check=False)
    pairs = [line.split("\t") for line in done.stdout.splitlines()]
    if done.returncode or not pairs or any(len(pair) != 3 for pair in pairs):
        say("systemd is left out: " + done.stdout.strip()[-300:])
        missing.append("systemd in a container")
        return
    found = [(name, float(cpu), float(clock)) for name, cpu, clock in pairs]
    _, base_cpu, base_clock = found[0]
    print("\nConnections with one message of 1 kB, one after the other:")
    show(["started by, what", "ms CPU", "ratio", "ms", "ratio"],
         [[name, "%.2f" % (1000 * cpu), "%.1f" % (cpu / base_cpu),
           "%.2f" % (1000 * clock), "%.1f" % (clock / base_clock)]
          for name, cpu, clock in found], folder + "/systemd.tsv")
    print("\n" + ACCEPT_LEGEND)


PARTS = ["main", "scale", "large", "tls", "filter", "loop", "distance",
         "systemd"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true",
                        default=bool(os.environ.get("QUICK")),
                        help="about a minute, and rougher; or QUICK=1")
    parser.add_argument("--parts", help="some of " + ",".join(PARTS))
    parser.add_argument("--only", default="", metavar="REGEX",
                        help="candidates whose name matches (and the floor)")
    parser.add_argument("--minutes", type=float, default=8,
                        help="no new rounds after that (8)")
    parser.add_argument("--rounds", type=int, help="at most (15)")
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--output", default=OUT, metavar="DIR")
    parser.add_argument("--beside", action="append", default=[],
                        metavar="NAME=PATH", help="measure another smtpd, too")
    parser.add_argument("--readme", metavar="README",
                        help="measure nothing, put the last run's tables there")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 15)
    args.sessions = args.sessions or (60 if args.quick else 200)
    args.bulk = 1 if args.quick else 10
    args.beside = [(label, os.path.abspath(path)) for label, _, path in
                   (beside.partition("=") for beside in args.beside)]
    args.parts = (args.parts or ("main,scale,tls,loop" if args.quick else
                                 ",".join(PARTS))).split(",")
    for part in set(args.parts) - set(PARTS):
        parser.error("no such part: " + part)
    return args


def run(args, tmp):
    missing = [name for name in ("strace", ACTIVATE[0]) if not find(name)]
    everyone = [c for c in candidates(args, tmp, missing)
                if c.name == "floor" or re.search(args.only, c.name)]
    scales = 0
    results = None
    if "main" in args.parts:
        results = main_part(args, tmp, everyone, args.output)
    if "scale" in args.parts:
        scales = scale_part(args, tmp, everyone, args.output)
    if "large" in args.parts:
        large_part(tmp, everyone, args.output)
    if "tls" in args.parts:
        tls_part(args, tmp, missing, args.output)
    if "filter" in args.parts:
        filter_part(args, tmp, missing, args.output)
    if "loop" in args.parts:
        loop_part(args, tmp, everyone, missing, args.output)
    if "distance" in args.parts:
        distance_part(args, tmp, args.output)
    if "systemd" in args.parts:
        systemd_part(tmp, missing, args.output)
    if results:
        plot(len(results.rows), scales, args.output)
    if missing:
        print("\nNot here, so not measured: " + ", ".join(missing) + ".")


def main():
    args = arguments()
    if args.readme:
        fill_in(args.readme, args.output)
        return
    lacking = [name for name in ("tcpserver", "smtp-source", "smtp-sink",
                                 "strip") if find(name) is None]
    if lacking:
        sys.exit("bench: not found: %s (Debian: ucspi-tcp, postfix, binutils)"
                 % ", ".join(lacking))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    become_reaper()
    os.makedirs(args.output, exist_ok=True)
    tmp = tempfile.mkdtemp(prefix="bench.")
    os.chmod(tmp, 0o755)
    for folder in ("", "/cur", "/new", "/tmp"):
        os.mkdir(tmp + "/Maildir" + folder)
        os.chmod(tmp + "/Maildir" + folder, 0o777)
    try:
        run(args, tmp)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        end_all()
        shutil.rmtree(tmp)


if __name__ == "__main__":
    main()
