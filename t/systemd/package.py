#!/usr/bin/env python3
"""package.py - the Debian package: built here by an ordinary user, installed,
upgraded while a client is connected, removed and purged, under a systemd that
runs.

The tests follow each other.
"""
import glob
import os
import pwd
import re
import subprocess
import sys

sys.path.insert(0, "/rig")
from booted import (ask, box, connection, delivered, hand_over, instances,
                    matches, run, same, slurp, succeeds, systemctl,
                    takes_a_message, until, wait_for_end)
from servers import message, spew
from tap import main, test

os.environ["DEBIAN_FRONTEND"] = "noninteractive"
SOCKETS = ("smtpd", "smtpd-submission", "smtpd-submissions", "smtpd-lmtp",
           "smtpd-smarthost", "smtpd-tls")


def package(version, name="smtpd"):
    return glob.glob(f"/rig/src/t/out/deb/{name}_{version}-1_*.deb")[0]


def field(name):
    return run("dpkg-deb", "--field", package("1.0"), name)[0].strip()


def slurp_octets(path):
    with open(path, "rb") as f:
        return f.read()


def build(version):
    succeeds("runuser", "-u", "builder", "--", "make", "-s", "-C", "/rig/src",
             "deb", f"VERSION={version}")


def dpkg(*words):
    succeeds("dpkg", "--force-confold", *words)


@test
def make_deb_needs_no_root():
    # The host's, where packages are installed for their programs alone.
    if os.path.exists("/usr/sbin/policy-rc.d"):
        os.unlink("/usr/sbin/policy-rc.d")
    succeeds("useradd", "--create-home", "builder")
    succeeds("chown", "-R", "builder", "/rig/src")
    build("1.0")
    build("1.1")
    same(len(glob.glob("/rig/src/t/out/deb/*.deb")), 4)


@test
def lintian_finds_nothing():
    for name in ("smtpd", "libsmtpd-channel-dev"):
        same(run("runuser", "-u", "builder", "--", "lintian",
                 package("1.0", name)), ("", 0))


@test
def the_packages_are_the_same_when_they_are_built_again():
    before = slurp_octets(package("1.0"))
    build("1.0")
    assert slurp_octets(package("1.0")) == before


@test
def what_is_installed_is_what_make_install_installs():
    succeeds("make", "-s", "-C", "/rig/src", "install", "PREFIX=/usr",
             "DESTDIR=/rig/tree")
    made = {re.sub(r"/rig/tree", "", path) for path in run(
        "find", "/rig/tree", "-type", "f")[0].split()}
    made = {re.sub(r"/smtpd\.8$", "/smtpd.8smtpd", path) for path in made}
    packed = set()
    for name in ("smtpd", "libsmtpd-channel-dev"):
        packed |= {re.sub(r"\.gz$", "", "/" + path) for path in re.findall(
            r"^-.* \./(\S+)$", run("dpkg-deb", "-c",
                                   package("1.0", name))[0], re.M)}
    # The library is where Debian has the machine's own, and no shared one;
    # beside it there is what Debian wants of a package.
    machine = run("dpkg-architecture", "-q", "DEB_HOST_MULTIARCH")[0].strip()
    library = ("libsmtpd-channel.a", "pkgconfig/smtpd-channel.pc")
    same({re.sub(r"\.so\.\d+$", ".so", path) for path in made - packed},
         {"/usr/lib/libsmtpd-channel.so",
          *[f"/usr/lib/{name}" for name in library]})
    same(packed - made, {
        "/etc/default/smtpd", "/usr/share/doc/smtpd/README.Debian",
        *[f"/usr/lib/{machine}/{name}" for name in library],
        *[f"/usr/share/{place}" for name in ("smtpd", "libsmtpd-channel-dev")
          for place in (f"doc/{name}/changelog.Debian",
                        f"doc/{name}/copyright",
                        f"lintian/overrides/{name}")]})


@test
def the_package_that_has_the_same_program_is_in_conflict():
    assert "opensmtpd" in field("Conflicts")


@test
def it_is_installed_with_its_users_and_no_socket():
    dpkg("-i", package("1.0"), package("1.0", "libsmtpd-channel-dev"))
    for user in ("smtpd", "smtpd-tls"):
        pwd.getpwnam(user)
    same(run("dpkg", "--verify", "smtpd")[0], "")
    for name in SOCKETS:
        same(systemctl("is-enabled", f"{name}.socket").strip(), "disabled")
        same(systemctl("is-active", f"{name}.socket").strip(), "inactive")
    same(run("smtpd", "--version")[0].split()[-1], "1.0")


@test
def systemd_knows_the_units_and_the_catalog_without_being_told():
    same(systemctl("show", "--property=NeedDaemonReload", "--value",
                   "smtpd.socket").strip(), "no")
    matches("A message was relayed",
            run("journalctl", "--list-catalog")[0])


@test
def the_manual_pages_are_found():
    for section, page in (("8smtpd", "smtpd"), ("8", "smtpd-tls"),
                          ("1", "smtpd-replay"), ("7", "smtpd-recipes"),
                          ("7", "smtpd-log")):
        same(run("man", "-w", section, page)[0].strip(),
             f"/usr/share/man/man{section[0]}/{page}.{section}.gz")


@test
def no_file_is_another_mail_servers():
    """Debian 13's Postfix has smtpd.8; what is installed here is compared."""
    mine = run("dpkg", "--listfiles", "smtpd")[0].split()
    others = [line for line in run("dpkg", "--search", *[
        path for path in mine if not os.path.isdir(path)])[0].splitlines()
        if not line.startswith("smtpd:")]
    same(others, [])


@test
def an_embedder_is_built_with_the_library():
    said, status = run("sh", "-c", "cd /tmp && gcc -o ping /rig/src/t/ping.c "
                       "$(pkg-config --cflags --libs smtpd-channel)")
    assert status == 0, said


@test
def one_line_and_one_command_serve_port_25():
    where = box("box")
    with open("/etc/default/smtpd", "a", encoding="utf-8") as f:
        f.write(f'SMTPD_RELAY="maildir:{where}"\n')
    succeeds("systemctl", "enable", "--now", "smtpd.socket")
    takes_a_message(25, "packed")
    same(len(delivered("box")), 1)
    wait_for_end()


@test
def an_upgrade_ends_no_session_and_keeps_the_settings():
    settings = slurp("/etc/default/smtpd")
    *first, text, _ = message("during the upgrade")
    with connection(25) as s:
        for line in first:
            ask(s)
            s.sendall(line.encode() + b"\r\n")
        dpkg("-i", package("1.1"))
        matches("^354 ", ask(s))
        s.sendall(text.encode() + b"\r\n")
        matches(r"^250 2\.0\.0 ", ask(s))
        s.sendall(b"QUIT\r\n")
        matches("^221 ", ask(s))
    wait_for_end()
    same(run("smtpd", "--version")[0].split()[-1], "1.1")
    takes_a_message(25, "after the upgrade")
    same(len(delivered("box")), 3)
    same(slurp("/etc/default/smtpd"), settings)
    wait_for_end()


@test
def installing_the_old_version_again_works_too():
    dpkg("-i", package("1.0"))
    takes_a_message(25, "back")
    wait_for_end()


@test
def removal_finishes_the_message_that_is_being_relayed():
    for name in ("begun", "go"):
        os.mkfifo(f"/srv/{name}")
        os.chmod(f"/srv/{name}", 0o666)
    where = box("slow")
    spew("/srv/relay", "echo begun >/srv/begun\nread line </srv/go\n"
         f"cat >{where}/message\n")
    spew("/etc/default/smtpd", 'SMTPD_RELAY="-- /bin/sh /srv/relay"\n')
    with connection(25) as s:
        hand_over(s, "the last")
        same(slurp("/srv/begun"), "begun\n")
        with subprocess.Popen(["dpkg", "--remove", "smtpd"],
                              stdout=subprocess.DEVNULL) as removal:
            unit = instances("smtpd")[0]
            until(lambda: systemctl("is-active", unit).strip() ==
                  "deactivating")
            spew("/srv/go", "go\n")
            matches(r"^250 2\.0\.0 ", ask(s))
            same(removal.wait(), 0)
    matches("^Subject: the last$", slurp(f"{where}/message"))
    assert not os.path.exists("/usr/sbin/smtpd")
    assert os.path.exists("/etc/default/smtpd")
    same(instances("smtpd"), [])
    for name in SOCKETS:
        same(systemctl("is-active", f"{name}.socket").strip(), "inactive")


@test
def a_package_that_comes_back_serves_as_before():
    dpkg("-i", package("1.1"))
    succeeds("systemctl", "start", "smtpd.socket")
    spew("/etc/default/smtpd", 'SMTPD_RELAY="maildir:/srv/box"\n')
    takes_a_message(25, "again")
    wait_for_end()


@test
def purging_leaves_nothing_but_what_the_administrator_wrote():
    os.makedirs("/etc/systemd/system/smtpd@.service.d", exist_ok=True)
    os.symlink("/usr/lib/systemd/system/smtpd@.service.d/tls.conf.example",
               "/etc/systemd/system/smtpd@.service.d/tls.conf")
    spew("/etc/smtpd/users", "jo:x\n")
    dpkg("--purge", "smtpd", "libsmtpd-channel-dev")
    left = run("find", "/etc", "/usr", "/run", "-name", "smtpd*", "!",
               "-path", "*postfix*", "!", "-path", "/usr/lib/python*", "!",
               "-path", "/run/systemd/*")[0].split()
    # What another package has, as Postfix its smtpd.8.gz, stays.
    same([path for path in left if run("dpkg", "--search", path)[1] != 0],
         ["/etc/smtpd"])
    same(systemctl("list-unit-files", "--no-legend", "smtpd*"), "")
    same(systemctl("list-units", "--all", "--plain", "--no-legend", "smtpd*",
                   "--failed"), "")
    assert "A message was relayed" not in run("journalctl",
                                              "--list-catalog")[0]
    same(slurp("/etc/smtpd/users"), "jo:x\n")


def commands(said):
    """What make says is to be done: its lines that are set in."""
    return re.findall(r"^  (.*)$", said, re.M)


@test
def make_install_says_which_three_commands_remain():
    said, status = run("make", "-s", "-C", "/rig/src", "install")
    assert status == 0, said
    remain = commands(said)
    same(len(remain), 3)
    for command in remain:
        succeeds("sh", "-c", command)
    pwd.getpwnam("smtpd")
    matches("A message was relayed", run("journalctl", "--list-catalog")[0])
    spew("/etc/default/smtpd", 'SMTPD_RELAY="maildir:/srv/box"\n')
    succeeds("systemctl", "enable", "--quiet", "--now", "smtpd.socket")
    takes_a_message(25, "from source")
    wait_for_end()


@test
def make_uninstall_says_which_sockets_are_still_enabled():
    said, _ = run("make", "-s", "-C", "/rig/src", "uninstall")
    matches(r"^smtpd\.socket is still enabled", said)
    for command in commands(said):
        succeeds("sh", "-c", command)
    same(systemctl("list-unit-files", "--no-legend", "smtpd*"), "")
    same(systemctl("is-active", "smtpd.socket").strip(), "inactive")
    same(run("find", "/etc/systemd", "/usr/local", "-name", "*smtpd*",
             "-type", "f,l")[0], "")


main()
