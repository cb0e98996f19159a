"""What the tests of OpenVPN profiles are made of: the corpus, and one small file."""

from __future__ import annotations

from pathlib import Path

CORPUS = Path(__file__).parents[1] / "golden" / "openvpn"
NAMES = sorted(path.stem for path in CORPUS.glob("*.ovpn"))


def corpus(name: str) -> str:
    return (CORPUS / f"{name}.ovpn").read_bytes().decode()


def block(name: str, text: str = "") -> str:
    """The first block of that name in a file of the corpus, or one with this text."""
    if text:
        return f"<{name}>\n{text.strip()}\n</{name}>\n"
    for each in NAMES:
        _, begin, rest = corpus(each).replace("\r", "").partition(f"<{name}>\n")
        if begin:
            return f"{begin}{rest.partition(f'</{name}>')[0]}</{name}>\n"
    raise LookupError(name)


HEAD = "client\ndev tun\nremote 192.0.2.1 1194\nremote-cert-tls server\n"
TAIL = block("ca") + block("cert") + block("key")
VALID = HEAD + TAIL  # what is put in between stands on line 5


def with_line(line: str) -> str:
    return f"{HEAD}{line}\n{TAIL}"
