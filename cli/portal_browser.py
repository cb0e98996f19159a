"""A browser for one login: with a profile of its own that is thrown away, so that the portal learns nothing of another.

Never by xdg-open: it would hand the page to the browser that runs already, which is not in the login, and has a past.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

FIREFOX = ("firefox", "firefox-esr", "librewolf")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "brave-browser", "microsoft-edge")
# https://searchfox.org/mozilla-central/source/modules/libpref/init/all.js and browser/app/profile/firefox.js
PREFERENCES: dict[str, bool | int | str] = {
    "network.trr.mode": 5,  # names as the network has them: no DNS over HTTPS
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.http.http3.enable": False,
    "network.prefetch-next": False,
    "network.dns.disablePrefetch": True,
    "dom.security.https_only_mode": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "browser.aboutwelcome.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "browser.safebrowsing.downloads.remote.enabled": False,
    "app.update.auto": False,
    "app.normandy.enabled": False,
    "extensions.update.enabled": False,
}
SWITCHES = (
    "--incognito", "--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-quic",
    "--disable-sync", "--disable-extensions", "--disable-component-update", "--dns-over-https-mode=off",
    "--disable-features=HttpsUpgrades,DnsOverHttps", "--new-window",
)  # fmt: skip
TRIES, AGAIN_S = 20, 0.25  # to throw the profile away: the browser's last processes may still write
CLONE_NEWNS, CLONE_NEWUSER, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 4096, 16384, 1 << 18
NSSWITCH = Path("/etc/nsswitch.conf")


def command(page: str, stack: ExitStack) -> list[str]:
    """The browser that is there, with its page; empty if there is none. Its profile goes with `stack`."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return []
    for name in FIREFOX:
        if found := shutil.which(name):
            profile = _profile(stack)
            lines = [f'user_pref("{key}", {_literal(value)});\n' for key, value in PREFERENCES.items()]
            (profile / "user.js").write_text("".join(lines), encoding="ascii")
            return [found, "--no-remote", "--profile", str(profile), "--private-window", page]
    for name in CHROMIUM:
        if found := shutil.which(name):
            return [found, f"--user-data-dir={_profile(stack)}", *SWITCHES, page]
    return []


def _literal(value: bool | int | str) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def _profile(stack: ExitStack) -> Path:
    profile = tempfile.mkdtemp(prefix="tunwarden-login-")
    stack.callback(_throw_away, profile)
    return Path(profile)


def _throw_away(folder: str) -> None:
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(AGAIN_S)


def plain_names() -> None:
    """Have the C library ask for names itself, where it would ask systemd-resolved or nscd, which are not in the login.

    By a mount namespace of this process's own, where the system lets users make one; else nothing changes.
    """
    try:
        before = NSSWITCH.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return
    after = "".join(_without_services(line) for line in before.splitlines(keepends=True))
    if after == before:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    unshared = libc.unshare(CLONE_NEWNS if uid == 0 else CLONE_NEWNS | CLONE_NEWUSER) == 0
    if not unshared:
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(after)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        if uid != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        mount: Callable[..., int] = libc.mount
        mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        mount(file.name.encode(), str(NSSWITCH).encode(), None, ctypes.c_ulong(MS_BIND), None)


def _without_services(line: str) -> str:
    if not line.lstrip().startswith("hosts:"):
        return line
    words = line.split("#")[0].split()
    kept = [words[0]]
    for word in words[1:]:
        if word == "resolve" or (word.startswith("[") and kept[-1] == "(left out)"):
            kept.append("(left out)")
        else:
            kept.append(word)
    kept = [word for word in kept if word != "(left out)"]
    if kept == words:
        return line
    return " ".join([*kept, *([] if "dns" in kept else ["dns"])]) + "\n"
