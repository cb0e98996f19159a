"""The visitor's platform, from the client hints and the user agent. Both may lie: other downloads are always there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.http import HttpRequest

from portal.downloads.models import Architecture, Platform

HINTS = "Sec-CH-UA-Platform, Sec-CH-UA-Arch, Sec-CH-UA-Bitness"
_HINTED = {
    "Windows": Platform.WINDOWS,
    "macOS": Platform.MACOS,
    "Linux": Platform.LINUX,
    "Chrome OS": Platform.ANDROID,  # it runs Android's applications, and no Linux package of ours
    "Chromium OS": Platform.ANDROID,
    "Android": Platform.ANDROID,
    "iOS": Platform.IOS,
}


@dataclass(frozen=True)
class Visitor:
    """The platforms it may be, the likeliest first; none: it cannot be told. `architecture`: None if not said."""

    platforms: tuple[Platform, ...] = ()
    architecture: Architecture | None = None


def _quoted(request: HttpRequest, name: str) -> str:
    """A hint's value: a quoted string (RFC 8941)."""
    found = re.fullmatch(r'"([ -!#-\[\]-~]{0,40})"', request.headers.get(name, "").strip())
    return found[1] if found else ""


def _architecture(request: HttpRequest, agent: str) -> Architecture | None:
    hinted, bits = _quoted(request, "Sec-CH-UA-Arch"), _quoted(request, "Sec-CH-UA-Bitness")
    match (hinted, bits):
        case ("arm", "64"):
            return Architecture.ARM64
        case ("x86", "64"):
            return Architecture.X86_64
        case ("x86", "32"):
            return Architecture.X86
    if re.search(r"aarch64|arm64", agent, re.IGNORECASE):
        return Architecture.ARM64
    # Every Mac says "Intel", those with ARM too.
    if "Macintosh" not in agent and re.search(r"x86_64|Win64|WOW64|x64|amd64", agent):
        return Architecture.X86_64
    if re.search(r"\bi[3-6]86\b", agent):
        return Architecture.X86
    return None


def _platforms(request: HttpRequest, agent: str) -> tuple[Platform, ...]:
    if re.search(r"iPhone|iPad|iPod", agent):
        return (Platform.IOS,)
    if "Macintosh" in agent and re.search(r"CriOS|FxiOS|EdgiOS|OPiOS|DuckDuckGo/|Mobile/", agent):
        return (Platform.IOS, Platform.MACOS)
    hinted = _HINTED.get(_quoted(request, "Sec-CH-UA-Platform"))
    if hinted:
        return (hinted,)
    if "Macintosh" in agent:
        # An iPad asks for desktop sites with Safari's words on a Mac, to the letter. Other engines are on Macs only.
        safari = "Safari/" in agent and not re.search(r"Chrome/|Chromium/|Firefox/", agent)
        return (Platform.MACOS, Platform.IOS) if safari else (Platform.MACOS,)
    for words, platform in (
        ("Android", Platform.ANDROID),
        ("CrOS", Platform.ANDROID),
        ("Windows NT", Platform.WINDOWS),
        ("Linux", Platform.LINUX),
    ):
        if words in agent:
            return (platform,)
    return ()


def of(request: HttpRequest) -> Visitor:
    agent = request.headers.get("User-Agent", "")[:1000]
    return Visitor(_platforms(request, agent), _architecture(request, agent))
