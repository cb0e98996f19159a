"""`python -m policies.profiles_reference` makes docs/profiles.md anew, from the lists that the parsers go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policies.external import KEYS
from policies.openvpn_directives import BLOCKS, DIRECTIVES, Fate
from policies.wireguard_conf import ALLOWED, IGNORED, SCRIPTS

INTRODUCTION = """# VPN profiles

Made by `python -m policies.profiles_reference`: the lists below are those that the parsers go by.

    tunwarden profiles import office office.ovpn     # or a WireGuard file; without a name, that of the file
    tunwarden profiles login office                  # OpenVPN: where the server asks for a user name and a password
    tunwarden profiles show office                   # all but the secrets
    tunwarden connect office

A configuration comes from strangers and would be read by a program that is root, so it is never handed on. Its text
is read once, by a list of what is allowed; what is on it becomes fields with types, and only these are kept
(`/var/lib/tunwarden`, root's alone) and only from these a tunnel is made. What is refused is told with its line, and
nothing of the file is kept. Names of servers are resolved at import: while a tunnel is being made, no DNS may pass.

## OpenVPN

openvpn 2.6 carries the tunnel and does nothing else. It runs no scripts, sets no addresses, no routes and no DNS, and
has no capability: the kernel marks what its control group sends (without unified control groups, CAP_NET_ADMIN is
left to it for that). Its configuration goes to it through memory, user name and password over a socket that only root
can reach. One server is tried at a time, and the firewall lets only that one be reached; when it fails, the next one
has its turn. A connection that breaks is made anew by tunwarden, behind the same firewall.

Of what the **server** pushes, these are taken: addresses (`ifconfig`, `ifconfig-ipv6`, `topology`, `route-gateway`),
resolvers (`dhcp-option DNS`, `DNS6`), `tun-mtu`, `ping`, `ping-restart`, the cipher and what belongs to it, a token
instead of the password, and framing without compression. Everything else is left out, and what was taken is checked
once more.

Certificates, keys and lists of revoked certificates stand in the file, as blocks: {blocks}.

Not there: user names and passwords with a one-time code (`static-challenge`), proxies, smart cards, Ethernet tunnels
(tap), encrypted private keys (decrypt them before the import).
"""

WIREGUARD = """
## WireGuard

The syntax of wg(8) and wg-quick(8), names of keys in any case, comments behind `#`.
"""

EXTERNAL = """
## External

A tunnel that another program brings up, such as wg-quick, NetworkManager or a provider's own: guarded by tunwarden, and
never touched. What that means, with examples: [external.md](external.md). A file in TOML with one table, `[external]`,
told from the other kinds by it. One of `link` and `kind` is needed, or both; and exactly one of `fwmark` and `uid`.
"""


def reference() -> Iterator[str]:
    """The lines of docs/profiles.md."""
    yield from INTRODUCTION.format(blocks=", ".join(f"`<{name}>`" for name in BLOCKS)).splitlines()
    for fate in Fate:
        yield from ("", f"### {fate.capitalize()}", "", f"| directives | {_HEAD[fate]} |", "|---|---|")
        reasons: dict[str, list[str]] = {}
        for name, (its_fate, reason) in DIRECTIVES.items():
            if its_fate is fate:
                reasons.setdefault(reason, []).append(name)
        yield from (_row(names, reason) for reason, names in reasons.items())
    yield from WIREGUARD.splitlines()
    used = [f"{name}" for names in ALLOWED.values() for name in names if name not in IGNORED]
    yield from ("", "| keys | what becomes of them |", "|---|---|", _row(used, "used"))
    yield from (_row([name], f"ignored: {reason}") for name, reason in IGNORED.items())
    yield _row(["Table"], "refused where it says anything but `auto`: it asks for other routes than tunwarden's")
    yield _row(SCRIPTS, "refused: would run a command as root")
    yield "| any other | refused |"
    yield from EXTERNAL.splitlines()
    yield from ("", "| keys | what they say |", "|---|---|")
    yield from (_row([key], text) for key, text in KEYS.items())
    yield "| any other | refused |"


_HEAD = {Fate.USED: "as", Fate.IGNORED: "because", Fate.REFUSED: "because it"}


def _row(names: Iterable[str], text: str) -> str:
    return f"| {', '.join(f'`{name}`' for name in names)} | {text} |"


if __name__ == "__main__":
    print("\n".join(reference()))
