"""Bad input and broken surroundings, at the real daemon: nothing leaves, nothing is lost, and people are told why.

Every `sealed` block sends nine kinds of traffic, judged at the wire, and ends with the meter's positive control.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.output import safe
from ipc.client import NotRunningError
from ipc.errors import ServiceError
from ipc.interface import Status
from lab.hosts import CommandError, Host
from lab.probes import exit_address
from lab.subject import PROFILE, SETTINGS, Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME

pytestmark = pytest.mark.netns

FILE = "/etc/tunwarden/tunwarden.toml"
STATE = "/var/lib/tunwarden"
NAME = "org.tunwarden.Daemon1"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # <linux/fcntl.h>, <linux/fs.h>
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def connected(subject: Subject) -> Subject:
    """At the cafe, protected."""
    subject.lab.join("cafe")
    subject.wait("connected")
    return subject


def restart(subject: Subject) -> None:
    subject.kill()
    subject.start()


def reload(subject: Subject) -> None:
    assert subject.process is not None
    subject.process.send(signal.SIGHUP)


def worked(subject: Subject) -> float:
    """Seconds of processor time that the daemon has used: a busy machine makes it slow, but does not make it work."""
    assert subject.process is not None
    stat = Path(f"/proc/{subject.process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    user, system = stat[stat.rindex(")") + 2 :].split()[11:13]  # proc_pid_stat(5)
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def told(subject: Subject, text: str) -> None:
    """Wait until a warning says it."""
    subject.wait(lambda status: any(text in warning for warning in status.warnings))


# --- settings ---------------------------------------------------------------------------------------------------------

HEAD = SETTINGS.count("\n")
WRONG = {  # what is appended to the good text: the line of it, and what people must be told
    "key": ("[cellular]\nacton = 1\n", 2, "cellular.acton: unknown key"),
    "type": ("[protection]\nlockdown = 'yes'\n", 2, "protection.lockdown: "),
    "address": ("[[known]]\nssid = 'x'\nbssids = ['aa:bb']\n", 3, "known.bssids: "),
    "table": ("[tunnel2]\n", 1, "tunnel2: unknown key"),
    "twice": ("[wifi]\n", 1, ""),
    "syntax": ("[wired\n", 1, ""),
}


def exchange(host: Host, path: str) -> None:
    """Put what is at `path`.new into its place at once, for the daemon watches: without a file, its defaults count,
    and open this machine; and a resolv.conf that is gone it writes again.
    """
    old, new = (os.fsencode(host.path(each)) for each in (path, f"{path}.new"))
    if _libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), f"exchange {path}")
    host.run("rm", "-rf", f"{path}.new")


def settings(host: Host, text: str) -> None:
    host.write(f"{FILE}.new", text)
    exchange(host, FILE)


def not_a_file(host: Host, way: str) -> None:
    """Something else stands where the settings should be."""
    new = f"{FILE}.new"
    match way:
        case "folder":
            host.run("mkdir", new)
        case "fifo":
            host.run("mkfifo", new)
        case "dangling":
            host.run("ln", "-s", "/nowhere", new)
        case "endless":
            host.run("ln", "-s", "/dev/zero", new)
        case "writable":
            host.write(new, SETTINGS, mode=0o666)
        case "somebody's":
            host.write(new, SETTINGS)
            host.run("chown", "nobody", new)
        case "binary":
            host.run("cp", "/bin/true", new)
        case "giant":
            host.write(new, "# " + "x" * (1 << 20))
    exchange(host, FILE)


WAYS = ("folder", "fifo", "dangling", "endless", "writable", "somebody's", "binary", "giant")


def test_settings_broken_and_none_ever_good(lab: Laboratory, sealed: Any) -> None:
    """It starts closed and says which line is wrong; not even a disconnect opens; a corrected file and SIGHUP do."""
    subject = Subject(lab, SETTINGS + "[protection]\nkill_switch = 1\n")
    subject.start()
    subject.set_up()
    with sealed():
        lab.join("cafe")
        status = subject.wait("blocked")
        assert (status.cause, status.blocking) == ("settings-broken", True)
        told(subject, f"{FILE}:{HEAD + 2}: protection.kill_switch: ")
        with pytest.raises(CommandError, match="the settings file has errors"):
            subject.cli("disconnect")
        for way in WAYS:
            not_a_file(lab.laptop, way)
            restart(subject)
            status = subject.status()
            assert (status.state, status.cause, status.blocking) == ("blocked", "settings-broken", True), way
            assert any(f"{FILE}:" in warning for warning in status.warnings), (way, status.warnings)
    settings(lab.laptop, SETTINGS)
    reload(subject)
    status = subject.wait("connected")
    assert status.warnings == ()


def test_settings_broken_and_the_last_good_ones_count(connected: Subject, sealed: Any) -> None:
    """At SIGHUP and at the next start alike: protection goes on under the rules that were good, and says so."""
    lab = connected.lab
    with sealed():
        for wrong, line, expected in WRONG.values():
            settings(lab.laptop, SETTINGS + wrong)
            reload(connected)
            told(connected, f"{FILE}:{HEAD + line}:{' ' + expected if expected else ''}")
            assert connected.status().protected
        settings(lab.laptop, SETTINGS.replace('"4s"', '"4 parsecs"'))
        reload(connected)
        told(connected, f"{FILE}:12: tunnel.connect_timeout: ")
        for way in WAYS:
            not_a_file(lab.laptop, way)
            reload(connected)
            told(connected, f"{FILE}:")
            assert connected.status().protected
        restart(connected)
        status = connected.wait("connected")
        assert any("the last good settings are in force" in warning for warning in status.warnings)
        settings(lab.laptop, SETTINGS)
        reload(connected)
        connected.wait(lambda status: not status.warnings)
        assert connected.status().protected


def test_settings_in_force_stay_when_a_first_file_is_broken(lab: Laboratory, sealed: Any) -> None:
    """Started without a file, the defaults are good settings too; a *start* with a broken file has none."""
    subject = Subject(lab, None)
    subject.start()
    subject.set_up()
    with sealed("eth0"):
        lab.laptop.write(FILE, "version = 'one'")
        reload(subject)
        told(subject, f"{FILE}:1: version: ")
        assert subject.status().cause is None
        restart(subject)
        assert subject.status().cause == "settings-broken"
        lab.plug()
        assert subject.wait("blocked").blocking


def test_link_rules_hold_at_once_after_a_reload(lab: Laboratory) -> None:
    """What a link is, is asked again: a cable that is declared a stranger's network is no longer open."""
    subject = Subject(lab, SETTINGS.replace('unsecured = "auto', 'unidentified = "auto_connect"\nunsecured = "auto'))
    subject.start()
    subject.set_up()
    lab.plug()
    subject.wait(lambda status: bool(status.networks) and status.networks[0].cleared)
    settings(lab.laptop, SETTINGS.replace('"wlan*"', '"eth*"'))
    reload(subject)
    subject.wait(lambda status: [each.kind for each in status.networks] == ["wifi"])
    subject.wait("connected")


def test_storms_of_sighup(connected: Subject, sealed: Any) -> None:
    """However many: answered meanwhile, protected all the time, and early ones do not end a daemon that starts."""
    process = connected.process
    assert process is not None
    with sealed():
        most = 0.0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            for _ in range(200):
                process.send(signal.SIGHUP)
            begun = worked(connected)
            assert connected.status().protected
            most = max(most, worked(connected) - begun)
        assert most < 1.0, "it answers before it has done all that it was told"
        pid_file = connected.lab.laptop.path("/run/tunwarden/daemon.pid")
        former = pid_file.read_text()
        connected.kill()
        starting = connected.process = connected.lab.laptop.start(connected.lab.python, "-I", "-m", "daemon")
        while pid_file.read_text() in (former, ""):  # before that, Python itself is not up
            assert starting.running, starting.output()
        until = time.monotonic() + 20
        while True:
            starting.send(signal.SIGHUP)
            try:
                connected.status()
                break
            except NotRunningError:
                assert starting.running, starting.output()
                assert time.monotonic() < until, starting.output()[-2000:]
            time.sleep(0.002)  # the machine may have other work, and the daemon must get to its own
        connected.wait("connected")


# --- the store --------------------------------------------------------------------------------------------------------


def rewritten(statement: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        db = sqlite3.connect(folder / "tunwarden.db", isolation_level=None)
        db.execute(statement)
        db.close()

    return damage


def other_database(folder: Path) -> None:
    (folder / "tunwarden.db").unlink()
    db = sqlite3.connect(folder / "tunwarden.db")
    db.execute("CREATE TABLE kept (who TEXT)")
    db.close()


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def replaced_by_folder(folder: Path) -> None:
    (folder / "tunwarden.db").unlink()
    (folder / "tunwarden.db").mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": put("tunwarden.db", b""),
    "cut": lambda folder: os.truncate(folder / "tunwarden.db", 4096),
    "garbage": put("tunwarden.db", b"garbage " * 4096),
    "garbage in the WAL": put("tunwarden.db-wal", b"garbage " * 4096),
    "garbage in a page": lambda folder: os.pwrite(
        os.open(folder / "tunwarden.db", os.O_WRONLY), b"garbage " * 512, 4096
    ),
    "another database": other_database,
    "a newer layout": rewritten("PRAGMA user_version=1000"),
    "no intent": rewritten("DELETE FROM kept WHERE name = 'intent'"),
    "a senseless target": rewritten("UPDATE kept SET value = replace(value, 'protected', 'maybe')"),
    "a senseless profile": rewritten("UPDATE kept SET value = replace(value, '\"profile\": null', '\"profile\": []')"),
    "a senseless network": rewritten('INSERT INTO known VALUES (\'41\', \'{"ssid_hex": "41", "action": 1}\')'),
    "gone": lambda folder: (folder / "tunwarden.db").unlink(),
    "a folder": replaced_by_folder,
}


def test_a_damaged_store_starts_closed(connected: Subject, sealed: Any, tmp_path: Path) -> None:
    """Set aside with a copy, closed, told, whatever the damage; closed at every start until somebody decides."""
    lab = connected.lab
    folder = lab.laptop.path(STATE)
    good, work = tmp_path / "good", tmp_path / "work"  # SQLite itself would leave the laptop through /proc/PID/root
    connected.kill()
    shutil.copytree(folder, good)
    with sealed():
        for name, damage in DAMAGES.items():
            shutil.copytree(good, work)
            damage(work)
            shutil.rmtree(folder)
            shutil.move(work, folder)
            wanted = (folder / "tunwarden.db").read_bytes() if (folder / "tunwarden.db").is_file() else b""
            connected.start()
            status = connected.status()
            assert (status.state, status.cause, status.blocking) == ("blocked", "store-broken", True), name
            (warning,) = status.warnings
            if name != "gone":
                (aside,) = (each for each in folder.glob("*.damaged-*") if not each.name.endswith(("-wal", "-shm")))
                assert f"{STATE}/{aside.name}" in warning
                assert aside.is_dir() or aside.read_bytes() == wanted, name
            connected.kill()
        connected.start()  # nobody has decided: this start is as closed as the last one
        assert (connected.status().cause, connected.status().warnings) == ("store-broken", (warning,))
        connected.cli("connect", "--wait")
        restart(connected)
        assert connected.wait("connected").warnings == ()
    connected.cli("disconnect")
    connected.wait("idle")
    restart(connected)
    assert connected.wait("idle").warnings == ()


def test_a_store_that_others_could_write_is_not_believed(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    connected.kill()
    with sealed():
        lab.laptop.run("chmod", "777", STATE)
        connected.start()
        status = connected.status()
        assert (status.state, status.cause, status.blocking) == ("blocked", "store-broken", True)
        told(connected, "somebody else than root may write this folder")
        connected.kill()
        lab.laptop.run("chmod", "755", STATE)
        connected.start()
        connected.wait("connected")
    assert lab.laptop.run("stat", "-c", "%a", STATE).stdout.strip() == "700"


def test_a_damaged_profile_is_no_reason_to_open(lab: Laboratory, sealed: Any) -> None:
    """The only profile, never named by anybody: a machine that was set up stays so, and the profile can be replaced."""
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    file = f"{STATE}/profiles/{PROFILE}.json"
    sound = lab.laptop.read(file)
    for content in (
        "",
        sound[:-20],
        "[" * 100_000,
        sound.replace('"kind"', '"kinds"'),
        sound.replace("office", "other"),
    ):
        lab.laptop.write(file, content, mode=0o600)
        restart(subject)
        told(subject, f"The profile file {file} is damaged")
    with sealed():
        lab.join("cafe")
        status = subject.wait("blocked")
        assert (status.target, status.cause, status.blocking) == ("protected", "no-profile", True)
        subject.cli("profiles", "remove", PROFILE)
        subject.set_up()
        assert subject.wait("connected").warnings == ()


def test_a_full_disk(lab: Laboratory, sealed: Any) -> None:
    """What stood goes on; what cannot be kept is said; the next start knows what was wanted and protects."""
    lab.laptop.run("mkdir", STATE)
    lab.laptop.run("mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", STATE)
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    lab.join("cafe")
    subject.wait("connected")
    subject.cli("connect")
    with sealed():
        lab.laptop.run("dd", "if=/dev/zero", f"of={STATE}/fill", "bs=1k", check=False)
        subject.cli("lockdown", "on")
        told(subject, "could not be saved")
        with pytest.raises(ServiceError, match="Nothing was changed"), subject.client() as client:
            client.import_profile("second", lab.client_config())
        assert os.listdir(lab.laptop.path(f"{STATE}/profiles")) == [f"{PROFILE}.json"]
        restart(subject)
        assert subject.wait("connected").target == "protected"
        lab.laptop.run("rm", f"{STATE}/fill")
        restart(subject)
        assert subject.wait("connected").warnings == ()


def test_a_state_folder_that_is_read_only(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    connected.kill()
    lab.laptop.run("mount", "--bind", STATE, STATE)
    lab.laptop.run("mount", "-o", "remount,bind,ro", STATE)
    with sealed():
        connected.start()
        status = connected.status()
        assert (status.state, status.cause, status.blocking) == ("blocked", "store-broken", True)
        told(connected, "nothing is kept")
        connected.cli("lockdown", "on")
        lab.laptop.run("umount", STATE)
        restart(connected)
        assert connected.wait("connected").warnings == ()  # not even set aside: it was never damaged


# --- resolv.conf ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "read-only", "giant"])
def test_a_resolv_conf_that_cannot_be_written(connected: Subject, sealed: Any, way: str) -> None:
    """Names would go past the tunnel, so there is none: blocked, told, and tried again until it can be written."""
    lab, path, other = connected.lab, "/etc/resolv.conf", "/run/lab/resolv.conf"
    with sealed():
        match way:
            case "folder":
                lab.laptop.run("mkdir", f"{path}.new")
                exchange(lab.laptop, path)
            case "read-only":  # already when it gets there, or the daemon would still write it
                lab.laptop.write(other, f"nameserver {lab.plan.cafe.host4(1)}\n")
                lab.laptop.run("mount", "--bind", other, other)
                lab.laptop.run("mount", "-o", "remount,bind,ro", other)
                lab.laptop.run("mount", "--bind", other, path)
            case "giant":
                lab.laptop.run("truncate", "-s", "1M", path)
        connected.cli("reconnect")
        told(connected, "point name resolution into the tunnel: ")
        status = connected.wait("blocked")
        assert (status.cause, status.blocking, status.protected) == ("resolver-failed", True, False)
        if way == "read-only":
            lab.laptop.run("umount", path)
        lab.laptop.run("rm", "-rf", path)
        lab.laptop.write(path, "# empty\n")
        connected.wait(lambda status: status.protected and not status.warnings)


def test_a_resolv_conf_that_is_a_link_is_given_back(subject: Subject) -> None:
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    subject.cli("disconnect")
    subject.wait("idle")
    lab.laptop.run("ln", "-sf", "/run/lab/elsewhere", "/etc/resolv.conf")
    subject.cli("connect", "--wait")
    assert str(lab.plan.tunnel_server[0]) in lab.laptop.read("/etc/resolv.conf")
    assert not lab.laptop.path("/run/lab/elsewhere").exists(), "root does not write through a link"
    subject.cli("disconnect")
    subject.wait("idle")
    assert lab.laptop.run("readlink", "/etc/resolv.conf").stdout.strip() == "/run/lab/elsewhere"


# --- WireGuard text ---------------------------------------------------------------------------------------------------


def refused(config: str) -> dict[str, tuple[str, str]]:
    """Texts, and what the refusal must name."""
    key = next(line.split(" = ", 1)[1] for line in config.splitlines() if line.startswith("PrivateKey"))
    in_interface = config.replace("[Interface]\n", "[Interface]\n{}\n", 1)
    scripts = {
        name: (in_interface.replace("{}", f"{name} = touch /run/lab/ran"), f"line 2: {name}")
        for name in ("PostUp", "PreUp", "PostDown", "PreDown")
    }
    return scripts | {
        "table": (in_interface.replace("{}", "Table = 51820"), "line 2: Table"),
        "unknown": (in_interface.replace("{}", "Colour = red"), "line 2: directive: is not known"),
        "short key": (config.replace(key, key[:-3] + "="), "PrivateKey"),
        "no base64": (config.replace(key, "!" * 44), "PrivateKey"),
        "endpoint": (config.replace("Endpoint = ", "Endpoint = $(id)"), "Endpoint"),
        "allowed": (config.replace("AllowedIPs = ", "AllowedIPs = 10.0.0.0/33, "), "AllowedIPs"),
        "NUL": (config + "\0", "text"),
        "too long": (config + "# " + "x" * (1 << 20), "text"),
        "name": (config.replace("Endpoint = ", "Endpoint = nowhere.invalid:1\n# "), "nowhere.invalid"),
        "nothing": ("", "PrivateKey|section|Interface"),
    }


def test_a_refused_import_leaves_nothing(lab: Laboratory) -> None:
    """Named by line and directive; no file, no script has run, and the key is nowhere to be read."""
    subject = Subject(lab)
    subject.start()
    config = lab.client_config()
    key = next(line.split(" = ", 1)[1] for line in config.splitlines() if line.startswith("PrivateKey"))
    said = ""
    for name, (text, expected) in refused(config).items():
        with subject.client() as client, pytest.raises(ServiceError, match=expected) as err:
            client.import_profile("bad", text)
        said += f"{name}: {err.value}\n"
    with subject.client() as client:
        for name in ("", "../up", "a/b", ".hidden", "a b", "a\nb", "x" * 65, "\u202ename"):
            with pytest.raises(ServiceError):
                client.import_profile(name, config)
        assert client.list_profiles() == ()
    assert os.listdir(lab.laptop.path(f"{STATE}/profiles")) == []
    with subject.client() as client:
        ignored = client.import_profile("good", config.replace("[Interface]\n", "[Interface]\nSaveConfig = true\n", 1))
        assert [(notice.line, notice.directive) for notice in ignored] == [(2, "SaveConfig")]
    lab.join("cafe")
    subject.wait("connected")
    assert subject.process is not None
    assert not lab.laptop.path("/run/lab/ran").exists()
    for text in (said, subject.process.output(), subject.cli("status", "--json"), subject.cli("profiles", "list")):
        assert key not in text and key[:12] not in text
    for each in lab.laptop.run("sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline", check=False).stdout.split(
        "\0"
    ):
        assert key not in each
    assert lab.laptop.run("find", STATE, "-perm", "/077", check=True).stdout == "", "root's alone"


# --- who asks ---------------------------------------------------------------------------------------------------------


def raw(subject: Subject, name: str = "tunwarden.sock") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(str(subject.lab.laptop.path(f"/run/tunwarden/{name}")))
    return sock


def call(method: str, **parameters: object) -> bytes:
    return json.dumps({"method": f"{NAME}.{method}", "parameters": parameters}).encode() + b"\0"


NONSENSE = (
    b"\0", b"garbage\0", b"[]\0", b'{"method": 1}\0', b"\xff\xfe\0", b"[" * 60_000 + b"\0",
    call("Manager.Explode"), call("Manager.Connect", profile=1), call("Manager.Connect", profile="\0"),
    call("Manager.SetLockdown", on="yes"), call("Manager.SetKillSwitch"), call("Manager.Connect", x=1),
    call("Networks.AddKnown", ssid_hex="zz"), call("Networks.AddKnown", ssid_hex="00" * 33),
    call("Networks.AddKnown", ssid="x", action="open"),
    call("Networks.AddKnown", ssid="x", security="open", action="ignore"),
    call("Networks.ForgetKnown", ssid_hex="q"), call("Profiles.Remove", name="../../etc/passwd"),
    call("Profiles.Import", name="x", text=5), call("Profiles.Import", name="x", text="\ud800"),
)  # fmt: skip


def test_abuse_over_the_socket(connected: Subject, sealed: Any) -> None:
    """Each abuser gets an error or a closed connection; protection is what it was, and the next one is served."""
    before = connected.status()
    abusers: list[socket.socket] = []
    with sealed():
        for message in NONSENSE:
            with raw(connected) as abuser:
                abuser.sendall(message)
                answer = abuser.recv(65536)
                assert b'"error"' in answer or answer == b"", (message[:60], answer)
        with raw(connected) as abuser, pytest.raises(OSError):  # more than any message may have
            for _ in range(64):
                abuser.sendall(b"x" * 65536)
            raise OSError  # it may also be read to its end, and refused
        for _ in range(40):  # half a message, and never the rest
            abusers.append(raw(connected))
            abusers[-1].sendall(b'{"method": "' + b"x" * 100)
        for _ in range(8):  # ask for ever, never read
            abuser = raw(connected, "read.sock")
            abuser.setblocking(False)
            abusers.append(abuser)
            watch = json.dumps({"method": f"{NAME}.Manager.Watch", "more": True}).encode() + b"\0"
            flood = watch if len(abusers) % 2 else call("Manager.GetStatus") * 2000
            try:
                while abuser.send(flood):
                    pass
            except OSError:
                pass
        most = 0.0
        for _ in range(100):
            begun = worked(connected)
            status = connected.status()
            most = max(most, worked(connected) - begun)
        assert most < 2.0, "the next one is served before all that the abusers want is done"
        assert (status.state, status.since, status.profile) == (before.state, before.since, before.profile)
        for abuser in abusers:
            abuser.close()


def test_a_storm_of_commands(connected: Subject, sealed: Any) -> None:
    """Reconnect, connect, switches, from many at once: it settles, with one tunnel, and never opened."""
    lab = connected.lab
    errors: list[Exception] = []

    def shout(number: int) -> None:
        try:
            with connected.client(30) as client:
                for turn in range(6):
                    client.reconnect()
                    client.connect(PROFILE)
                    client.set_lockdown((number + turn) % 2 == 0)
        except Exception as err:
            errors.append(err)

    with sealed():
        shouting = [threading.Thread(target=shout, args=(number,)) for number in range(4)]
        for each in shouting:
            each.start()
        for each in shouting:
            each.join()
        assert errors == []
        connected.wait("connected", 25)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
    assert len(lab.laptop.run("pidof", "wireguard-go", check=False).stdout.split()) <= 1


AS_NOBODY = """
import json, socket, sys
found = {}
for name in ("tunwarden.sock", "read.sock"):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    try:
        sock.connect("/run/tunwarden/" + name)
    except OSError as err:
        found[name] = type(err).__name__
        continue
    answers = {}
    for method, parameters in json.loads(sys.argv[1]):
        sock.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\\0")
        answer = b""
        while not answer.endswith(b"\\0"):
            answer += sock.recv(65536)
        answers[method.split("Daemon1.")[1]] = json.loads(answer[:-1]).get("error", "")
    found[name] = answers
print(json.dumps(found))
"""
CHANGES: tuple[tuple[str, dict[str, object], str], ...] = (  # Varlink's name, its parameters, D-Bus's arguments
    ("Manager.Connect", {}, "string:"),
    ("Manager.Disconnect", {}, ""),
    ("Manager.Reconnect", {}, ""),
    ("Manager.SetKillSwitch", {"on": False}, "boolean:false"),
    ("Manager.SetLockdown", {"on": True}, "boolean:true"),
    ("Networks.AddKnown", {"ssid": "Cafe Guest", "action": "disconnect"}, ""),
    ("Networks.ForgetKnown", {"ssid_hex": "41"}, "string:41 boolean:false"),
    ("Profiles.Import", {"name": "x", "text": "[Interface]"}, "string:x string:y"),
    ("Profiles.Remove", {"name": PROFILE}, f"string:{PROFILE}"),
)


def test_e8_nobody_may_look_and_change_nothing(connected: Subject, sealed: Any) -> None:
    """E8: the user `nobody`, on both sockets and on the bus, tries every method."""
    lab = connected.lab
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    calls = [[f"{NAME}.{method}", parameters] for method, parameters, _ in CHANGES]
    with sealed():
        before = connected.status()
        out = lab.laptop.run(*nobody, "/usr/bin/python3", "-I", "-c", AS_NOBODY, json.dumps(calls)).stdout
        found = json.loads(out)
        assert found["tunwarden.sock"] == "PermissionError"
        assert set(found["read.sock"].values()) == {f"{NAME}.Error.NotPermitted"}, found
        for method, _, arguments in CHANGES:
            if method == "Networks.AddKnown":
                arguments = "string:x string: string: string:disconnect string:" + " boolean:false" * 3
            asked = lab.laptop.run(
                *nobody, "dbus-send", "--system", "--print-reply", f"--dest={NAME}", "/org/tunwarden/Daemon1",
                f"{NAME}.{method}", *arguments.split(), check=False,
            )  # fmt: skip
            assert f"{NAME}.Error.NotPermitted" in asked.stderr, (method, asked)
        answer = lab.laptop.run(
            *nobody, "dbus-send", "--system", "--print-reply", f"--dest={NAME}", "/org/tunwarden/Daemon1",
            f"{NAME}.Manager.GetStatus",
        )  # fmt: skip
        assert "connected" in answer.stdout
        now = connected.status()
        assert (now.state, now.since, now.lockdown, now.kill_switch) == ("connected", before.since, False, True)


def test_a_second_daemon_is_refused(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    assert connected.process is not None
    status = Path(f"/proc/{connected.process.pid}/status").read_text()
    inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid"))
    with sealed():
        for _ in range(2):
            second = lab.laptop.run(lab.python, "-I", "-m", "daemon", check=False)
            assert (second.returncode, second.stderr) == (1, f"tunwardend: already running as process {inner}\n")
        assert connected.status().protected


def test_a_place_that_is_taken_does_not_end_protection(lab: Laboratory, sealed: Any) -> None:
    """Something else stands where the socket belongs: the network is guarded, and the bus still answers."""
    lab.laptop.run("mkdir", "-p", "/run/tunwarden/tunwarden.sock")
    lab.laptop.write(FILE, "version = 'one'")
    process = lab.laptop.start(lab.python, "-I", "-m", "daemon")
    process.wait_output("ready")
    with sealed("eth0"):
        lab.plug()
        assert lab.networkmanager is not None
        answer = lab.networkmanager.client.call(NAME, "/org/tunwarden/Daemon1", f"{NAME}.Manager.GetStatus")
        assert "is not a socket" in str(answer)
        lab.laptop.run("rmdir", "/run/tunwarden/tunwarden.sock")
        subject = Subject(lab, None)
        deadline = time.monotonic() + 30
        while not lab.laptop.listens("/run/tunwarden/tunwarden.sock"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        subject.wait(lambda status: not any("is not a socket" in each for each in status.warnings))


# --- names from the air -----------------------------------------------------------------------------------------------

NAMES = (
    b"$(id)`id`;reboot #",
    b"line\nPostUp = id\r\n<3>forged",
    b"\x1b]0;title\x07\x1b[31mred",
    "\u202eevil\u2066\u200b".encode(),
    bytes(range(224, 256)),
    b"'; DROP TABLE known; --",
)


def wait_ssid(subject: Subject, ssid: bytes) -> Status:
    return subject.wait(lambda status: [each.ssid_hex for each in status.networks] == [ssid.hex()])


def test_e3_names_that_try_to_do_something(subject: Subject, sealed: Any) -> None:
    """E2, E3: they are classified, shown and logged; no shell, line, terminal or database obeys them."""
    lab = subject.lab
    with sealed():
        for name in NAMES:
            lab.join("cafe", ssid=name, dhcp=False)
            status = wait_ssid(subject, name)
            assert status.blocking
            (network,) = status.networks
            assert network.ssid is not None
            assert network.verdict == "unsecured" and safe(network.ssid) == network.ssid and network.ssid.isprintable()
            with subject.client() as client:
                client.add_known(ssid_hex=name.hex(), security="wpa2", action="disconnect")
                assert name.hex() in [each.ssid_hex for each in client.list_known()]
        with subject.client() as client:
            assert len(client.list_known()) == len(NAMES) + 1
    assert subject.process is not None
    log = subject.process.output()
    assert not set(log) & (set(map(chr, range(32))) - {"\n"}) and "\u202e" not in log
    assert not [line for line in log.splitlines() if line.startswith(("PostUp", "<3>forged"))]


# --- what others do to us ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["NetworkManager", "bus"])
def test_the_source_of_names_dies_while_held(subject: Subject, sealed: Any, victim: str) -> None:
    """Nobody will ever say what network this is: it is a strange one, after the time limit."""
    lab = subject.lab
    assert lab.networkmanager is not None
    with sealed():
        lab.networkmanager.associating()
        lab.associate(lab.networks["cafe"])
        subject.wait(lambda status: status.state != "idle")  # held, but a busy machine may sleep through that
        kill(lab, victim)
        lab.card.configure("wlan0", lab.networks["cafe"].subnet, metric=600, wait_ipv6=False, timeout=25)
        status = subject.wait("connected")
        assert status.networks[0].verdict == "unidentified"


@pytest.mark.parametrize("victim", ["NetworkManager", "bus"])
def test_the_source_of_names_dies_while_connected(connected: Subject, sealed: Any, victim: str) -> None:
    with sealed():
        kill(connected.lab, victim)
        status = connected.wait(lambda status: status.networks[0].verdict == "unidentified")
        assert status.protected


def test_the_source_of_names_dies_at_home(subject: Subject, sealed: Any) -> None:
    """A known network that nobody vouches for any more is a strange one: held, then protected."""
    lab = subject.lab
    lab.join("home")
    subject.wait("idle")
    kill(lab, "NetworkManager")
    subject.wait(lambda status: status.state != "idle")
    assert "held" in subject.states()
    with sealed():
        assert subject.wait("connected").networks[0].verdict == "unidentified"


def kill(lab: Laboratory, victim: str) -> None:
    assert lab.networkmanager is not None
    if victim == "NetworkManager":
        lab.networkmanager.kill()
    else:
        pids = lab.laptop.run("pidof", "dbus-daemon").stdout.split()
        lab.laptop.run("kill", "-KILL", *pids)


def test_the_card_is_pulled_out(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    with sealed("eth0"):
        lab.laptop.run("ip", "link", "del", "wlan0")
        status = connected.wait(lambda status: status.cause == "no-network")
        assert status.blocking
        lab.plug()
        connected.wait("connected")
    assert TUNNEL_IFNAME in lab.laptop.run("ip", "-o", "link").stdout


def test_the_card_is_renamed(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    with sealed():
        lab.laptop.run("ip", "link", "set", "wlan0", "name", "wlan7")
        connected.wait(lambda status: [each.ifname for each in status.networks] == ["wlan7"])
        connected.wait("connected")
        lab.laptop.run("ip", "link", "set", "wlan7", "name", "wlan0")
        connected.wait(lambda status: [each.ifname for each in status.networks] == ["wlan0"])
        assert connected.wait("connected").blocking
