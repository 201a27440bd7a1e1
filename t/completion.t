#!/usr/bin/env python3
"""completion.t - bash completes smtpd's options, their values and its
transports, as --help names them."""
import os
import re
import subprocess

from tap import SMTPD, Skip, folder, main, script, test

BASH = "/usr/share/bash-completion/bash_completion"
HELP = subprocess.run([SMTPD, "--help"], capture_output=True, text=True,
                      check=True).stdout
OPTIONS = set(re.findall(r"(?:^ +(?:-., )?)(--[a-z-]+)", HELP, re.M))


def complete(*words):
    """What bash offers for the last of words, which may be empty.  bash
    breaks words at colons; what it puts in place begins after the last."""
    if not os.path.exists(BASH):
        raise Skip("bash-completion is not installed")
    line = " ".join(["smtpd", *words])
    broken = [w for w in re.findall(r":|=|[^\s:=]+|(?<= )$", line) if w or
              line.endswith(" ")]
    text = f"""
    . {BASH}
    . units/smtpd.bash
    COMP_LINE=$1 COMP_POINT=${{#1}} COMP_TYPE=9 COMP_KEY=9; shift
    compopt() {{ :; }}
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _smtpd {SMTPD} "${{@: -1}}" "${{@: -2:1}}"
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", text, "bash", line, *broken],
                          capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return sorted(done.stdout.split())


@test
def every_option_is_offered():
    assert len(OPTIONS) > 40, OPTIONS
    offered = complete("--")
    assert set(offered) == OPTIONS | {"--"}, OPTIONS ^ set(offered)
    assert complete("--relay-c") == ["--relay-clients"]


@test
def every_transport_is_offered():
    offered = complete("")
    assert offered == ["discard:", "error:", "lmtp:", "maildir:", "print:",
                       "show:", "smtp:", "smtps:"], offered
    assert complete("--live", "sm") == ["smtp:", "smtps:"]


@test
def the_values_of_an_option_are_those_that_it_takes():
    for option in ("--bare-newline", "--relay-tls", "--milter-default",
                   "--log-level"):
        said = re.search(rf"^ +{option} .*?((?:[a-z]+, )+[a-z]+)", HELP,
                         re.M)[1]
        values = said.replace("tempfail if", "").split(", ")
        assert complete(option, "") == sorted(values), option
        for value in values:
            done = subprocess.run([SMTPD, option, value, "discard:"],
                                  stdin=subprocess.DEVNULL,
                                  capture_output=True)
            assert done.returncode == 0, (option, value, done.stderr)


@test
def check_has_its_value_after_an_equals_sign_only():
    assert complete("--check=") == ["connect", "start"]
    assert complete("--check=co") == ["connect"]
    assert complete("--check", "disc") == ["discard:"]
    assert complete("--check", "--siz") == ["--size"]


@test
def files_are_offered_where_a_file_is_wanted():
    where = folder()
    script(where, "", "routes")
    assert complete("--routes", f"{where}/ro") == [f"{where}/routes"]
    assert complete(f"print:{where}/ro") == [f"{where}/routes"]
    assert complete("--auth", f"file:{where}/ro") == [f"{where}/routes"]
    for option in ("--from", "--relay-domains", "--auth-senders", "--record"):
        assert complete(option, f"{where}/ro") == [f"{where}/routes"], option
    for option in ("--policy", "--milter", "--tls-engine"):
        assert complete(option, f"unix:{where}/ro") == [f"{where}/routes"]
    assert complete("--tls-engine", "") == ["unix:"]
    assert complete("--auth", "") == ["checkpassword:", "dovecot:", "file:",
                                      "relay:"]
    assert complete("--size", "") == []


@test
def after_two_hyphens_a_program_is_completed():
    assert "/bin/true" in complete("--live", "--", "/bin/tru")


main()
