"""The text of an OpenVPN configuration (openvpn(8), 2.6) -> directives with their words, and blocks.

Nothing has a meaning here yet, and nothing that openvpn_directives.py refuses or does not know gets through. Errors
never carry a value: it could be a key in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from policies.openvpn_directives import BLOCKS, DIRECTIVES, Fate
from policies.profiles_errors import Notice, ProfileError
from policies.wireguard_conf import nearest

MAX_BYTES = 1 << 20
LONGEST_LINE = 255  # characters that openvpn reads of one line (OPTION_LINE_SIZE); it would take the rest for another

_KNOWN = {name: name for name in DIRECTIVES}
_FOREIGN = re.compile(r"^\s*\[(interface|peer)\]", re.IGNORECASE | re.MULTILINE)
_OWN = re.compile(r"^\s*(<[a-z]|client\s*$|remote\s+\S|dev\s+t|proto\s+\w)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Directive:
    """One line: the words behind its name, unquoted; or a block: its content."""

    line: int
    name: str
    words: tuple[str, ...] = field(default=(), repr=False)
    block: str | None = field(default=None, repr=False)


def looks_like_openvpn(text: str) -> bool:
    """Whether somebody who brings this text means OpenVPN. No check: the parser does that."""
    return _FOREIGN.search(text) is None and _OWN.search(text) is not None


def read(text: str) -> tuple[tuple[Directive, ...], tuple[Notice, ...]]:
    """The directives that are used, in their order, and what was ignored. Raises ProfileError for what is refused."""
    _check_text(text)
    used: list[Directive] = []
    notices: list[Notice] = []
    for each in _directives(text.removeprefix("\ufeff")):
        reason = _judge(each)
        if reason is None:
            used.append(each)
        else:
            notices.append(Notice(each.line, each.name, f"ignored: {reason}"))
    return tuple(used), tuple(notices)


def lines_of(block: Directive) -> Iterator[Directive]:
    """The directives inside a <connection> block, checked as those outside are. Raises ProfileError."""
    for each in _directives(block.block or "", block.line + 1):
        if _judge(each) is None:
            yield each


def _judge(directive: Directive) -> str | None:
    """Why it is ignored; None: it is used. Raises ProfileError."""
    name, line = directive.name, directive.line
    known = DIRECTIVES.get(name)
    if known is None:
        near = nearest(name, _KNOWN)
        remedy = f"did you mean {near}?" if near else "remove the line; docs/profiles.md lists all that are known"
        raise ProfileError(line, "directive", "is not known", remedy)
    fate, reason = known
    if directive.block is not None and name not in BLOCKS:
        raise ProfileError(line, name, "is no block that is taken", f"these are: {', '.join(BLOCKS)}")
    if fate is Fate.REFUSED:
        raise ProfileError(line, name, reason, f"remove all {name} lines")
    if fate is Fate.USED:
        return None
    if name in ("route", "route-ipv6") and "net_gateway" in directive.words:
        raise ProfileError(line, name, "leads past the tunnel", "remove the line")
    if name in ("setenv", "setenv-safe"):
        return _variable(directive, reason)
    if name == "allow-compression" and directive.words != ("no",):
        return "compression is never allowed: what a tunnel compresses can be guessed (VORACLE)"
    return reason


# Written by providers for their own clients; nobody reads them here.
_VARIABLES = re.compile(
    r"FORWARD_COMPATIBLE|CLIENT_CERT|GENERIC_CONFIG|FRIENDLY_NAME|USERNAME|PROFILE_?\w*|SERVER_POLL_TIMEOUT"
    r"|PUSH_PEER_INFO|(?:UV|IV)_[A-Z0-9_]+|ALLOW_PASSWORD_SAVE|AUTOLOGIN_SPEC|WSHOST|WSPORT|OVPN_\w+"
)


def _variable(directive: Directive, reason: str) -> str:
    name = directive.words[0] if directive.words else ""
    if not _VARIABLES.fullmatch(name):
        raise ProfileError(directive.line, directive.name, "sets a variable that is not known", "remove the line")
    return reason


def _check_text(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    # Raised outside the handler: the error that was handled holds the whole text, keys included.
    if size < 0:
        raise ProfileError(0, "text", "is not valid UTF-8", "save it as UTF-8")
    if size > MAX_BYTES:
        raise ProfileError(0, "text", f"has more than {MAX_BYTES} bytes", "an OpenVPN configuration has a few thousand")


def _directives(text: str, first: int = 1) -> Iterator[Directive]:
    lines = enumerate(text.split("\n"), first)
    for number, raw in lines:
        words = _words(number, _clean(number, raw))
        if not words:
            continue
        name = words[0].removeprefix("--")
        if name == "setenv" and len(words) > 2 and words[1] == "opt":
            # "If you know it, take it": one more directive, and one that is not known here means nothing.
            if words[2] in DIRECTIVES:
                yield Directive(number, words[2], tuple(words[3:]))
            continue
        if not (name.startswith("<") and name.endswith(">")):
            if not re.fullmatch(r"[a-z0-9-]{1,40}", name):
                raise ProfileError(number, "directive", "is not known", "begin each line with the name of a directive")
            yield Directive(number, name, tuple(words[1:]))
            continue
        tag = name[1:-1]
        if len(words) > 1 or not re.fullmatch(r"[a-z0-9-]{1,40}", tag):
            raise ProfileError(number, "block", "is not known", f"these are: {', '.join(BLOCKS)}")
        content = []
        for inner, line in lines:
            line = _clean(inner, line)
            if line.strip(" \t") == f"</{tag}>":
                break
            content.append(line)
        else:
            raise ProfileError(number, tag, "has no end", f"write </{tag}> on a line of its own")
        yield Directive(number, tag, block="\n".join(content))


def _clean(number: int, raw: str) -> str:
    raw = raw.removesuffix("\r")
    # In comments too: a carriage return or an escape sequence there shows a reader other lines than we read.
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]", raw):
        raise ProfileError(number, "line", "contains a control character", "remove it")
    return raw


def _words(number: int, line: str) -> list[str]:
    """As openvpn splits a line (parse_line in its options.c): quotes, backslashes, comments. Raises ProfileError."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    characters = iter(line)
    for character in characters:
        if character == "\\" and quote != "'":
            escaped = next(characters, "")
            if escaped not in ('"', "\\", " ") or not escaped:
                raise ProfileError(number, "line", "has a backslash that means nothing", 'only \\\\, \\" and "\\ " do')
            word = (word or "") + escaped
        elif quote:
            if character == quote:
                words.append(word or "")
                word, quote = None, ""
            else:
                word = (word or "") + character
        elif character in " \t":
            if word is not None:
                words.append(word)
                word = None
        elif word is None and character in "#;":
            break
        elif word is None and character in "\"'":
            quote, word = character, ""
        else:
            word = (word or "") + character
    if quote:
        raise ProfileError(number, "line", "has a quote without its end", "close it")
    if word is not None:
        words.append(word)
    if words and len(line) > LONGEST_LINE:
        problem = f"has more than {LONGEST_LINE} characters"
        raise ProfileError(number, "line", problem, "openvpn would cut it: shorten it")
    return words
