#!/usr/bin/env python3
"""report.t - smtpd-report: fixed logs, exact tables; and what smtpd itself
logs."""
import gzip
import json
import os
import re
import subprocess

from tap import Session, folder, main, test

REPORT = os.path.abspath("t/tools/smtpd-report")
PLACE = folder()

LOG = """\
smtpd: event=message-relayed id=A1 client=192.0.2.1 helo=one.example from=Jo@example.org to=a@example.net to=b@example.net size=1000 tls="TLSv1.3 TLS_AES_256_GCM_SHA384" nexthop=mx.example.net[198.51.100.1]:25 nexthop_tls="TLSv1.3 TLS_AES_128_GCM_SHA256" delay=0.250 relay=smtp:mx.example.net:25 reply="250 2.0.0 queued as X"
smtpd: event=message-relayed id=A2 client=192.0.2.1 helo=one.example user=jo from=jo@example.org to=a@example.net size=500 nexthop=mx.example.net[198.51.100.1]:25 delay=1.750 relay=smtp:mx.example.net:25 reply="250 2.0.0 queued as Y"
smtpd: event=part id=A3 client=192.0.2.2 from=<> to=list@example.net relay=lmtp:unix:/run/lmtp nexthop=/run/lmtp reply="250 2.0.0 ok"
smtpd: event=part id=A3 client=192.0.2.2 from=<> to=jo@example.org relay=maildir:/srv/box reply="250 2.0.0 Message accepted"
smtpd: event=message-relayed id=A3 client=192.0.2.2 from=<> to=list@example.net to=jo@example.org size=20 relay=several reply="250 2.0.0 Message accepted, id A3"
smtpd: event=message-deferred id=A4 client=192.0.2.2 from=<> to=a@example.net size=20 relay=smtp:mx.example.net:25 reply="451 4.4.1 Cannot connect to next hop"
smtpd: event=message-refused id=A5 client=192.0.2.3 helo="x event=message-relayed" from=s@example.com to=b@example.net size=9 relay=smtp:mx.example.net:25 reply="550 5.6.0 No"
smtpd: event=refused id=A6 client=192.0.2.3 from=s@example.com to=c@example.net by="policy inet:127.0.0.1:10023 at RCPT" relay=discard: reply="450 4.2.0 <c@example.net>: Greylisted"
smtpd: event=refused id=A7 client=192.0.2.3 from=s@example.com to=d@example.net by="policy inet:127.0.0.1:10023 at RCPT" relay=discard: reply="450 4.2.0 <d@example.net>: Greylisted"
smtpd: event=refused id=A8 client=192.0.2.3 from=s@example.com to=d@example.net by="--relay-clients at RCPT" relay=discard: reply="554 5.7.1 Relay access denied: client 192.0.2.3 is not in --relay-clients"
smtpd: event=refused id=A9 client=192.0.2.4 from=s@example.com to=d@example.net by="--relay-clients at RCPT" relay=discard: reply="554 5.7.1 Relay access denied: client 192.0.2.4 is not in --relay-clients"
smtpd: event=refused id=B1 client=192.0.2.4 from=s@example.com to=d@example.net size=9 by="milter inet:127.0.0.1:8891 at END-OF-MESSAGE" relay=discard: reply="550 5.7.1 Spam"
smtpd: event=milter id=B1 client=192.0.2.4 text="filter inet:127.0.0.1:8891: 2 changes"
smtpd: event=milter id=B1 client=192.0.2.4 text="filter inet:127.0.0.1:8891: cannot connect"
smtpd: event=quarantine id=B1 client=192.0.2.4 text="to maildir:/srv/odd: looks odd"
smtpd: event=routes client=192.0.2.4 text="/etc/smtpd/routes: line 3: no relay"
smtpd: event=routes client=192.0.2.5 text="/etc/smtpd/routes: line 3: no relay"
smtpd: event=tls-failed client=192.0.2.5 text="the client has closed the connection"
smtpd: event=auth-failed client=203.0.113.9 text="PLAIN by file: wrong password"
smtpd: event=auth-failed client=203.0.113.9 tried="j o" text="PLAIN by file: no such user"
smtpd: event=auth-ok client=192.0.2.1 user=jo text="PLAIN by file:"
smtpd: event=session client=203.0.113.9 text="quit after 0 messages, 2 errors"
"""

TSV = """\
totals|3|messages relayed
totals|1|messages deferred
totals|1|messages refused
totals|5|recipients relayed
totals|1520|octets relayed
totals|5|commands refused
totals|1|logins without a message
totals|2|failed logins
totals|0|clients lost
totals|0|timeouts
totals|1|failed TLS handshakes
totals|0|possible duplicates
totals|1|messages quarantined
totals|2|configuration errors
senders|2|1500|jo@example.org
senders|1|20|<>
recipients|2|1500|a@example.net
recipients|1|1000|b@example.net
recipients|1|20|jo@example.org
recipients|1|20|list@example.net
clients|2|1500|192.0.2.1
clients|1|20|192.0.2.2
users|1|500|jo
relays|2|1500|mx.example.net[198.51.100.1]:25
relays|1|0|/run/lmtp
relays|1|0|maildir:/srv/box
deferred|2|450 4.2.0 <>: Greylisted (policy inet:127.0.0.1:10023 at RCPT)
deferred|1|451 4.4.1 Cannot connect to next hop (smtp:mx.example.net:25)
refused|2|554 5.7.1 Relay access denied: the client is not in --relay-clients (--relay-clients at RCPT)
refused|1|550 5.6.0 No (smtp:mx.example.net:25)
refused|1|550 5.7.1 Spam (milter inet:127.0.0.1:8891 at END-OF-MESSAGE)
failed logins|2|203.0.113.9
reasons of failed logins|1|PLAIN by file: no such user
reasons of failed logins|1|PLAIN by file: wrong password
names of failed logins|1|j o
TLS of clients|2|none
TLS of clients|1|TLSv1.3 TLS_AES_256_GCM_SHA384
TLS of next hops|2|none
TLS of next hops|1|TLSv1.3 TLS_AES_128_GCM_SHA256
failed TLS handshakes|1|the client has closed the connection
trouble|2|routes: /etc/smtpd/routes: line 3: no relay
trouble|1|milter: filter inet:127.0.0.1:8891: cannot connect
delays|2|0.250|1.750|mx.example.net[198.51.100.1]:25
""".replace("|", "\t")

TABLE = """\
totals
  count  what
      1  messages relayed
      0  messages deferred
      1  messages refused
      1  recipients relayed
     12  octets relayed
      0  commands refused
      0  logins without a message
      0  failed logins
      0  clients lost
      0  timeouts
      0  failed TLS handshakes
      0  possible duplicates
      0  messages quarantined
      0  configuration errors

senders of what was relayed
  count  octets  name
      1      12  jo@example.org

recipients of what was relayed
  count  octets  name
      1      12  ann@example.net

clients whose mail was relayed
  count  octets  name
      1      12  192.0.2.1

where it went
  count  octets  name
      1      12  discard:

refused, and by whom
  count  reason
      1  554 5.7.1 Relay access denied (discard:)

TLS of clients, by messages
  count  protocol and cipher
      1  none

seconds until the relay had a message
  count  median  longest  name
      1   0.001    0.001  discard:
"""


def report(text, *options):
    done = subprocess.run([REPORT, *options], input=text, text=True,
                          capture_output=True)
    return done.returncode, done.stdout, done.stderr


def as_journal(line):
    """The entry that the journal has of a record."""
    names = {"from": "SENDER", "to": "RECIPIENT", "id": "QUEUE_ID",
             "method": "SASL_METHOD"}
    entry = {"MESSAGE": line[len("smtpd: "):], "SYSLOG_IDENTIFIER": "smtpd",
             "__REALTIME_TIMESTAMP": "1", "PRIORITY": "6"}
    for name, value in re.findall(r' ([a-z_]+)=("[^"]*"|\S+)', line):
        if name == "text":
            continue
        field = "SMTPD_" + names.get(name, name.upper())
        value = value.strip('"')
        if field in entry:
            entry[field] = (entry[field] if isinstance(entry[field], list)
                            else [entry[field]]) + [value]
        else:
            entry[field] = value
    return json.dumps(entry) + "\n"


@test
def a_log_is_counted_wherever_it_was_kept():
    assert report(LOG, "--tsv") == (0, TSV, ""), report(LOG, "--tsv")
    syslog = "".join("Nov 28 12:00:00 mx " + line.replace(
        "smtpd:", "smtpd[123]:", 1) + "\n" for line in LOG.splitlines())
    assert report(syslog, "--tsv") == (0, TSV, "")
    journal = "".join(map(as_journal, LOG.splitlines()))
    assert report(journal, "--tsv") == (0, TSV, "")
    # Without libsystemd a record is no more than a line there.
    plain = "".join(json.dumps({"MESSAGE": line[len("smtpd: "):]}) + "\n"
                    for line in LOG.splitlines())
    assert report(plain, "--tsv") == (0, TSV, "")


@test
def a_table_is_for_people():
    log = ("smtpd: event=message-relayed id=A1 client=192.0.2.1 "
           "from=jo@example.org to=ann@example.net size=12 delay=0.001 "
           'relay=discard: reply="250 ok"\n'
           "smtpd: event=message-refused id=A2 client=192.0.2.1 "
           "from=jo@example.org to=x@example.net relay=discard: "
           'reply="554 5.7.1 Relay access denied"\n')
    assert report(log) == (0, TABLE, ""), report(log)[1]
    # The time of a log's records is above it, as they have it.
    first, last = log.splitlines()
    for mark, shown in (("Nov {}8 12:00:00 mx ", "Nov {}8 12:00:00"),
                        ("2026-11-{}8T12:00:00.1+00:00 mx ",
                         "2026-11-{}8 12:00:00")):
        got = report("".join(mark.format(n) + line + "\n"
                             for n, line in ((1, first), (2, last))))
        assert got == (0, f"from {shown.format(1)} to {shown.format(2)}\n\n" +
                       TABLE, ""), got
    entry = json.dumps({"MESSAGE": "event=session client=unix", "SMTPD_EVENT":
                        "session", "__REALTIME_TIMESTAMP": "1795953600000000"})
    os.environ["TZ"] = "UTC"
    assert report(entry)[1].startswith(
        "from 2026-11-29 12:00:00 to 2026-11-29 12:00:00\n\ntotals\n"), \
        report(entry)[1]


@test
def a_log_without_records_is_told():
    status, got, error = report("Nov 28 12:00:00 mx kernel: up\n")
    assert status == 0 and "      0  messages relayed\n" in got, got
    assert error == "smtpd-report: there is no record of smtpd in this\n"


@test
def a_log_that_logrotate_has_compressed_is_read_as_it_is():
    whole = os.path.join(PLACE, "mail.log.2.gz")
    with gzip.open(whole, "wb") as f:
        f.write(LOG.encode())
    assert report("", "--tsv", whole) == (0, TSV, "")
    with open(whole, "rb") as f:
        octets = f.read()
    done = subprocess.run([REPORT, "--tsv"], input=octets,
                          capture_output=True)
    assert done.stdout.decode() == TSV, done
    for name, some in ("cut", octets[:-20]), ("odd", octets[:40] + b"?" * 90):
        part = os.path.join(PLACE, name)
        with open(part, "wb") as f:
            f.write(some)
        status, _, error = report("", part)
        assert status == 1, (name, error)
        assert error.startswith(f"smtpd-report: {part}: "), error
        assert "Traceback" not in error, error


@test
def recipients_who_share_a_message_are_counted_once_as_a_message():
    lmtp = ("smtpd: event=message-relayed id=A1 client=unix from=s@example.org "
            'to=a@example.org size=10 relay=discard: reply="250 a"\n'
            "smtpd: event=message-relayed id=A1 client=unix from=s@example.org "
            'to=b@example.org size=10 relay=discard: reply="250 b"\n')
    got = report(lmtp, "--tsv")[1]
    for row in ("totals\t1\tmessages relayed", "totals\t2\trecipients relayed",
                "totals\t10\toctets relayed", "senders\t1\t10\ts@example.org"):
        assert row + "\n" in got, got
    many = ("smtpd: event=message-relayed id=A1 client=unix from=s@example.org "
            'to=a@example.org recipients=30 size=10 reply="250 a"\n')
    assert "totals\t30\trecipients relayed\n" in report(many, "--tsv")[1]


@test
def what_is_no_record_is_left_out():
    noise = ("Nov 28 12:00:00 mx postfix/qmgr[1]: A1: removed\n"
             "Nov 28 12:00:00 mx kernel: event=message-relayed id=A1\n\n"
             '{"MESSAGE": "Started SMTP session", "UNIT": "smtpd@1"}\n'
             '{"MESSAGE": null}\n{"MESSAGE": [1, 2]}\n')
    assert "totals\t0\tmessages relayed\n" in report(noise, "--tsv")[1]
    status, output, error = report(LOG + "{broken\n[]\n", "--tsv")
    assert (status, output) == (1, TSV) and "one line is" in error, error
    assert "2 lines are" in report("{broken\n{\n")[2]
    odd = ('{"SMTPD_EVENT": []}\n{"SMTPD_EVENT": [1, "x"]}\n' +
           '{"a":' * 3000 + "\n")
    assert "3 lines are" in report(odd)[2], report(odd)
    forged = ('smtpd: event=session client=192.0.2.1 helo="x size=1 '
              'event=message-relayed smtpd: event=auth-failed" text=x\n'
              "smtpd: event=message-relayed id=A1 size=many delay=soon\n")
    got = report(forged, "--tsv")[1]
    assert "totals\t1\tmessages relayed\n" in got, got
    assert "totals\t0\tfailed logins\n" in got, got


@test
def rows_are_as_many_as_asked_for():
    log = "".join(f"smtpd: event=auth-failed client=192.0.2.{n}\n"
                  for n in range(30))
    for options, wanted in (([], 10), (["--top", "3"], 3), (["--top", "0"],
                                                            30)):
        got = report(log, "--tsv", *options)[1]
        assert got.count("failed logins\t1\t") == wanted, got
    status, _, error = report("", "--top", "-1")
    assert status == 2 and "negative" in error, error
    status, _, error = report("", "/no/such/log")
    assert status == 1 and "/no/such/log: No such file" in error, error


@test
def what_smtpd_logs_is_understood():
    with Session("--relay-domains", "example.net", "discard:") as s:
        s.start()
        s.deliver(sender="jo@example.org", to=("ann@example.net",))
        s.say("PING")
        _, log = s.finish()
    path = os.path.join(PLACE, "log")
    with open(path, "w") as f:
        f.write(log)
    status, got, error = report("", "--tsv", path)
    assert (status, error) == (0, ""), error
    size = re.search(r"size=(\d+)", log)[1]
    for row in ("totals\t1\tmessages relayed",
                f"senders\t1\t{size}\tjo@example.org",
                f"recipients\t1\t{size}\tann@example.net",
                f"relays\t1\t{size}\tdiscard:"):
        assert row + "\n" in got, (row, got)


main()
