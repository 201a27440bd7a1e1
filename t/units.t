#!/usr/bin/env python3
"""units.t - the units as they are shipped, without starting any:
systemd-analyze finds nothing in them, and what they say of themselves is
true."""
import glob
import os
import re
import subprocess

from tap import Skip, folder, main, test

ANALYZE = "/usr/bin/systemd-analyze"
EXPOSURE = re.compile(r"^# Exposure by systemd-analyze security: ([\d.]+)$",
                      re.M)


def slurp(path):
    with open(path) as f:
        return f.read()


def base(path, suffix=""):
    return os.path.basename(path)[:-len(suffix) or None]


UNITS = {base(p): slurp(p)
         for p in glob.glob("units/*.socket") + glob.glob("units/*.service")}
DROPINS = {base(p, ".conf.example"): slurp(p)
           for p in glob.glob("units/smtpd@.service.d/*.example")}
SERVICES = sorted(u for u in UNITS if u.endswith("service"))
# What serves a client of its own, and the TLS engine that stays.
SYSTEM = [u for u in SERVICES if "@" in u and "catch" not in u]


def runnable(text):
    return text.replace("@SBINDIR@/smtpd", "/bin/true").replace(
        "@PREFIX@/libexec/smtpd-tls", "/bin/true")


def analyze(unit, dropin, *command):
    """systemd-analyze on a unit as installed, but all in one place, with a
    program that is there, and with a drop-in or without."""
    if not os.access(ANALYZE, os.X_OK):
        raise Skip(f"{ANALYZE} is not installed")
    where = folder()
    for name, text in UNITS.items():
        with open(f"{where}/{name}", "w") as f:
            f.write(runnable(text))
    if dropin:
        os.mkdir(f"{where}/{unit}.d")
        with open(f"{where}/{unit}.d/local.conf", "w") as f:
            f.write(runnable(DROPINS[dropin]))
    return subprocess.run([ANALYZE, *command, f"./{unit}"], cwd=where,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)


def exposure(unit, dropin=None):
    said = analyze(unit, dropin, "security", "--offline=yes",
                   "--no-pager").stdout
    found = re.search(r"exposure level for .*?: ([\d.]+)", said)
    assert found, said
    return float(found[1])


def promised(text):
    return float(EXPOSURE.search(text)[1])


@test
def systemd_has_no_complaint_about_a_unit():
    for unit in UNITS:
        done = analyze(unit, None, "verify", "--man=no")
        assert (done.returncode, done.stdout) == (0, ""), f"{unit}: {done}"


@test
def systemd_has_no_complaint_about_a_drop_in():
    for name in DROPINS:
        done = analyze("smtpd@.service", name, "verify", "--man=no")
        assert (done.returncode, done.stdout) == (0, ""), f"{name}: {done}"


@test
def no_service_is_more_exposed_than_its_comment_says():
    assert len(SYSTEM) == 5, SYSTEM
    shipped = promised(UNITS["smtpd@.service"])
    for unit in SYSTEM:
        most = promised(UNITS[unit]) if EXPOSURE.search(
            UNITS[unit]) else shipped
        assert exposure(unit) <= most, unit
    assert exposure("smtpd@.service", "hardened") <= promised(
        DROPINS["hardened"])


def confinement(text):
    """What confines, from StandardInput= on.  Where smtpd itself changes the
    user, it keeps the two capabilities for that."""
    text = re.sub(r"^(CapabilityBoundingSet=)CAP_SETUID CAP_SETGID$", r"\1",
                  text, flags=re.M)
    text = text[[m.start() for m in re.finditer(
        r"^StandardInput=", text, re.M)][-1]:]
    return [line for line in text.split("\n")
            if re.match("[A-Z]", line) and not line.startswith("User=")]


@test
def the_engine_that_stays_is_more_confined_than_a_session():
    unit = UNITS["smtpd-tls.service"]
    assert exposure("smtpd-tls.service") <= promised(unit)
    assert promised(unit) < promised(UNITS["smtpd@.service"])
    assert re.search(r"^User=smtpd-tls$", unit, re.M)
    socket = UNITS["smtpd-tls.socket"]
    assert re.search(r"^SocketMode=0600$", socket, re.M)
    assert re.search(r"^SocketUser=smtpd$", socket, re.M)


@test
def services_are_confined_alike():
    # systemd has no include: what confines is written five times.
    for unit in SYSTEM:
        assert confinement(UNITS[unit]) == confinement(
            UNITS["smtpd@.service"]), unit


@test
def what_the_journal_leaves_out_has_no_records_of_ours():
    for unit in (name for name in UNITS if name.endswith("@.service")):
        level, = re.findall(r"^LogLevelMax=(\w+)$", UNITS[unit], re.M)
        assert re.findall(r"^Environment=SMTPD_LOG_PRIORITY=(\w+)$",
                          UNITS[unit], re.M) == [level], unit
        assert re.findall(r"^SyslogLevel=(\w+)$", UNITS[unit], re.M) == [
            level], unit


@test
def no_service_serves_as_root():
    for unit in SYSTEM:
        assert re.search(r"^User=smtpd$|^ExecStart=\S+ --user smtpd ",
                         UNITS[unit], re.M), unit


def command(text, key):
    """The words of a unit's command, without the program."""
    joined = text.replace("\\\n", " ")
    return re.search(rf"^{key}=(\S.*)$", joined, re.M)[1].split()[1:]


def settings(text):
    """Those of the session: how it logs is its service's own."""
    return re.findall(r"^(?:Environment|EnvironmentFile)=(?!SMTPD_LOG_).*$",
                      text, re.M)


@test
def a_socket_checks_what_its_service_will_run():
    for unit in ("smtpd", "smtpd-lmtp", "smtpd-submission",
                 "smtpd-submissions"):
        front, service = UNITS[f"{unit}.socket"], UNITS[f"{unit}@.service"]
        assert command(front, "ExecStartPre") == [
            "--check=start", *command(service, "ExecStart")], unit
        assert settings(front) == settings(service), unit
        user = re.findall(r"^User=.*$", service, re.M)
        assert re.findall(r"^User=.*$", front, re.M) == user, unit
    # systemd has no credentials for a socket: root checks.
    root = ["--check=start", "--user", "smtpd"]
    for front, service in (
            (UNITS["smtpd-smarthost.socket"],
             UNITS["smtpd-smarthost@.service"]),
            (slurp("units/smtpd.socket.d/smarthost.conf.example"),
             UNITS["smtpd@.service"])):
        assert command(front, "ExecStartPre") == [
            *root, *command(service, "ExecStart")], front
        assert "\nEnvironment=CREDENTIALS_DIRECTORY=/etc/smtpd\n" in front
        assert not re.search("^User=.", front, re.M)
    front = slurp("units/smtpd.socket.d/tls.conf.example")
    assert command(front, "ExecStartPre") == [
        "--check=start", *command(DROPINS["tls"], "ExecStart")]


@test
def no_assertion_of_systemd_hides_what_the_check_says():
    for unit, text in [*UNITS.items(), *DROPINS.items()]:
        assert not re.search("^(Assert|Condition)", text, re.M), unit


@test
def standard_error_is_never_the_client():
    for unit in SERVICES:
        if "@" not in unit:     # it has no client there
            continue
        assert re.search(r"^StandardError=journal$", UNITS[unit], re.M), unit


CATALOG = slurp("units/smtpd.catalog")
TABLE = slurp("src/session/log.c")
NAMED = set(re.findall(r'\{ "([a-z-]+)", "[0-9a-f]{32}"', TABLE))


@test
def the_catalog_explains_the_events_that_there_are():
    explained = sorted(re.findall(r"^-- ([0-9a-f]{32})$", CATALOG, re.M))
    assert explained and explained == sorted(
        set(re.findall('"([0-9a-f]{32})"', TABLE)))


@test
def the_catalog_names_no_event_that_is_not_there():
    named = re.findall(r'records "([a-z-]+)"', CATALOG)
    assert [name for name in named if name not in NAMED] == []


@test
def every_event_has_its_explanation():
    found = set()
    for path in glob.glob("*.c") + glob.glob("src/*/*.c"):
        found.update(re.findall(
            r'\b(?:logger_printf|session_log|ask_log|log_reply)\('
            r'[^;]*?LOG_[A-Z]+,\s*"([a-z-]+)"', slurp(path)))
    assert "dialogue" in found, found
    assert sorted(found - NAMED) == []


main()
