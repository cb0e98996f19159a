"""tunwarden known list | add | edit | forget | export | import. It reads and writes the files, never the daemon."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cli.codes import Exit
from cli.files import write_new
from cli.output import Output, safe
from ipc.client import Client
from ipc.errors import Error, ServiceError
from ipc.interface import ACTIONS, SECURITIES
from ipc.structs import KnownNetwork
from ipc.values import plain

LONGEST = 16 << 20  # bytes of a file to import
AT_ONCE = 200, 100 << 10  # networks and bytes of one call
EPILOG = """\
A pattern such as 'Corp-*' stands for many names (* any bytes, ? any one; quote it for the shell). It may relax
protection only with --security 8021x; any other needs --action auto_connect.

known add --learn gathers the access points you meet; known edit NAME --no-learn ends that, and from then on only
these count. Files of export and import hold one network a line, as JSON.

known edit NAME --beacon 192.0.2.1:443 takes the certificate that this server shows now, and says which: on that
network, without the VPN. A server of the router or the office, which nobody can reach from outside. Compare it there
with `openssl x509 -noout -fingerprint -sha256 -in FILE`, or give --beacon-sha256."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="list|add|edit|forget|export|import", required=True)
    parts.add_parser("list", help="the saved networks")
    add = parts.add_parser(
        "add", help="save a network; without a name: the one joined now",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add.add_argument("ssid", nargs="?", metavar="SSID", help="the network's name")
    add.add_argument("--hex", metavar="HEX", help="the name as hexadecimal bytes instead")
    add.add_argument("--pattern", metavar="PATTERN", help="instead of a name: all names that match")
    add.add_argument("--pin", action="store_true", help="only the access point and the router joined now")
    _rules(add)
    edit = parts.add_parser(
        "edit", help="change a saved network; what is not named stays",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    edit.add_argument("name", metavar="NAME", help="its name or pattern as listed, or its bytes in hexadecimal")
    _rules(edit)
    edit.add_argument("--no-learn", dest="learn", action="store_false", help="only those met so far, from now on")
    edit.add_argument("--no-allow-lan", dest="allow_lan", action="store_false", help="while protected, keep it away")
    edit.add_argument("--unset", action="append", default=[], choices=UNSET, metavar="KEY", help=", ".join(UNSET))
    forget = parts.add_parser("forget", help="forget a saved network")
    forget.add_argument("name", metavar="NAME", help="its name or pattern as listed, or its bytes in hexadecimal")
    export = parts.add_parser("export", help="write what users saved, one network a line")
    export.add_argument("file", nargs="?", default="-", metavar="FILE", help="a new file; -: the standard output")
    brought = parts.add_parser("import", help="save the networks of such a file, in place of those of the same names")
    brought.add_argument("file", metavar="FILE", help="- is the standard input")


UNSET = ("action", "profile", "server", "allow_lan", "resolvers", "except", "bssids", "gateways", "beacon")


def _rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--security", choices=SECURITIES, metavar="S", help="the weakest to accept, such as wpa2")
    parser.add_argument("--action", choices=ACTIONS, metavar="A", help=", ".join(ACTIONS))
    parser.add_argument("--profile", metavar="PROFILE", help="the profile to use there")
    parser.add_argument("--server", metavar="SERVER", help="of a profile with a list: a name, country:SE, fastest ...")
    parser.add_argument(
        "--allow-lan", action="store_true", default=None, help="let its local network be reached while protected"
    )
    parser.add_argument("--learn", action="store_true", default=None, help="add access points as they are met")
    for name, what in (("resolver", "ADDRESS"), ("except", "PATTERN"), ("bssid", "MAC"), ("gateway", "MAC")):
        parser.add_argument(f"--{name}", action="append", metavar=what, help=HELP[name])
    parser.add_argument("--beacon", metavar="ADDRESS:PORT", help="only where this TLS server proves itself")
    parser.add_argument("--beacon-sha256", metavar="HEX", help="with this certificate")


HELP = {
    "resolver": "asked through the tunnel there, instead of the profile's; again for more",
    "except": "names that a pattern does not mean; again for more",
    "bssid": "only this access point; again for more",
    "gateway": "only behind this router; again for more",
}


def run(options: argparse.Namespace, out: Output) -> int:
    lines = list(_lines(options.file)) if options.part == "import" else []
    with Client(options.run_folder, timeout=60) as client:
        match options.part:
            case "list":
                _list(client.all_known(), out)
            case "add":
                _saved(_add(client, options), out)
            case "edit":
                known = _find(client.all_known(), options.name)
                changes = _keys(options) | dict.fromkeys(options.unset)
                if "beacon" in options.unset:
                    changes["beacon_sha256"] = None
                _saved(client.edit_known(known.ssid_hex, json.dumps(changes), known.pattern), out)
            case "forget":
                known = _find(client.all_known(), options.name)
                client.forget_known(known.ssid_hex, known.pattern)
                out.data(plain(known))
                out.line(f"Forgot “{safe(known.ssid)}”.")
            case "export":
                _export([one.entry for one in client.all_known() if one.source == "user"], options.file, out)
            case "import":
                count = sum(client.import_known(text) for text in _portions(lines))
                out.data({"imported": count})
                out.line(f"Saved {_counted(count)}.")
    return Exit.OK


def _keys(options: argparse.Namespace) -> dict[str, object]:
    """What was said, by the keys of [[known]]."""
    said = {
        "security": options.security,
        "action": options.action,
        "profile": options.profile,
        "server": options.server,
        "allow_lan": options.allow_lan,
        "learn": options.learn,
        "resolvers": options.resolver,
        "except": getattr(options, "except"),
        "bssids": options.bssid,
        "gateways": options.gateway,
        "beacon": options.beacon,
        "beacon_sha256": options.beacon_sha256,
    }
    return {key: value for key, value in said.items() if value is not None}


def _add(client: Client, options: argparse.Namespace) -> KnownNetwork:
    keys = _keys(options)
    more = {"server", "resolvers", "except", "bssids", "gateways", "beacon", "beacon_sha256"} & keys.keys()
    if not more and options.pattern is None:
        return client.add_known(
            options.ssid,
            options.hex,
            options.security,
            options.action,
            options.profile,
            bool(options.allow_lan),
            options.pin,
            bool(options.learn),
        )
    names = {"ssid": options.ssid, "ssid_hex": options.hex, "pattern": options.pattern}
    named = {key: value for key, value in names.items() if value is not None}
    if len(named) != 1 or options.pin:
        options_alone = "--server, --resolver, --except, --bssid, --gateway and --beacon"
        why = f"{options_alone} need one name or --pattern, and go without --pin."
        raise ServiceError(Error.INVALID_ARGUMENT, "known add", why)
    client.import_known(json.dumps(named | keys))
    wanted = (options.pattern or options.ssid or "").encode().hex() if options.hex is None else options.hex.lower()
    known = client.all_known()
    return next(one for one in known if (one.ssid_hex, one.pattern) == (wanted, options.pattern is not None))


def _saved(known: KnownNetwork, out: Output) -> None:
    out.data(plain(known))
    out.line(f"Saved “{safe(known.ssid)}”, at least {safe(known.security)}.")
    if known.beacon and known.beacon_sha256:
        out.line(f"Its beacon is {safe(known.beacon)} with the certificate {safe(known.beacon_sha256)}.")


def _list(known: tuple[KnownNetwork, ...], out: Output) -> None:
    out.data(plain(known))
    if not known:
        out.line("No saved network.")
        return
    rows = [
        (
            one.ssid,
            "pattern" if one.pattern else one.ssid_hex,
            one.security,
            one.action or "",
            one.profile or "",
            "yes" if one.allow_lan else "no",
            _only(one),
            one.source,
        )
        for one in known
    ]
    out.table(("NETWORK", "BYTES", "AT LEAST", "ACTION", "PROFILE", "LAN", "ONLY", "FROM"), rows)


def _only(known: KnownNetwork) -> str:
    """What else has to hold."""
    parts = [f"not {each}" for each in known.exceptions]
    if known.learn:
        parts.append(f"learning, {len(known.bssids)} so far")
    elif known.bssids:
        parts.append(f"{len(known.bssids)} access points" if len(known.bssids) > 1 else known.bssids[0])
    if known.gateways:
        parts.append(f"{len(known.gateways)} routers" if len(known.gateways) > 1 else f"router {known.gateways[0]}")
    if known.beacon:
        parts.append(f"beacon {known.beacon}")
    return ", ".join(parts)


def _find(known: tuple[KnownNetwork, ...], name: str) -> KnownNetwork:
    found = [one for one in known if name in (one.ssid, one.ssid_hex)]
    if len(found) == 1:
        return found[0]
    why = "several match: give the bytes in hexadecimal." if found else "it is not among the saved ones."
    raise ServiceError(Error.NO_SUCH_NETWORK, f"Network {name}", why, "See: tunwarden known list")


# --- files ------------------------------------------------------------------------------------------------------------


def _export(entries: list[str], file: str, out: Output) -> None:
    text = "".join(f"{entry}\n" for entry in entries)
    if file == "-":
        sys.stdout.write(text)
        return
    write_new(Path(file), text)  # for the owner alone: the names of one's networks tell where one goes
    out.data({"exported": len(entries)})
    out.line(f"Wrote {_counted(len(entries))} to {safe(file)}.")


def _counted(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"


def _lines(file: str) -> Iterator[str]:
    """Every line made sure of before anything is sent: half an import helps nobody."""
    from policies.settings_errors import SettingsError
    from policies.settings_known import known_from_json, known_to_json  # pydantic: slow to import

    if file == "-":
        raw = sys.stdin.buffer.read(LONGEST + 1)
    else:
        with Path(file).open("rb") as source:
            raw = source.read(LONGEST + 1)
    if len(raw) > LONGEST:
        raise OSError(f"{file}: longer than {LONGEST} bytes")
    seen: dict[tuple[bool, bytes], int] = {}
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            known = known_from_json(line.decode())
        except UnicodeDecodeError:
            raise OSError(f"{file}:{number}: not a text in UTF-8") from None
        except SettingsError as err:
            one = err.problems[0]
            allowed = f"; allowed: {one.allowed}" if one.allowed else ""
            raise OSError(f"{file}:{number}: {one.key + ': ' if one.key else ''}{one.problem}{allowed}") from None
        if (before := seen.setdefault(known.key, number)) != number:
            raise OSError(f"{file}:{number}: line {before} has the same name")
        yield known_to_json(known)


def _portions(lines: list[str]) -> Iterator[str]:
    most, longest = AT_ONCE
    portion: list[str] = []
    size = 0
    for line in lines:
        if portion and (len(portion) == most or size + len(line) > longest):
            yield "\n".join(portion)
            portion, size = [], 0
        portion.append(line)
        size += len(line)
    if portion:
        yield "\n".join(portion)
