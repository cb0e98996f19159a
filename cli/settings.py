"""tunwarden settings get | set | reset | export | import | check | schema.

Files are read and written here, as whoever runs this; the daemon gets and gives content alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.codes import Exit
from cli.files import read_text, write_new
from cli.output import Output, safe
from ipc.client import Client
from ipc.errors import Error, ServiceError
from ipc.interface import SETTINGS_BYTES
from ipc.structs import Setting
from ipc.values import plain

LONGEST = 1 << 20
EPILOG = """\
What /etc/tunwarden/tunwarden.toml and /etc/tunwarden/tunwarden.d/*.toml say is the administrator's and is not changed
here. Everything else can be set, for this machine and for good. That needs root, but for the strictest value of each.
Lists are written with commas: tunwarden settings set protection.lan_subnets 100.64.0.0/10,fd00::/48"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    get = parts.add_parser("get", help="what is in force, and who said so")
    get.add_argument("key", nargs="?", metavar="KEY", help="one setting, or a table such as wifi; else all of them")
    change = parts.add_parser("set", help="change a setting")
    change.add_argument("key", metavar="KEY", help="with its table: wifi.secured")
    change.add_argument("value", metavar="VALUE", help="as in the file, without quotes or brackets")
    reset = parts.add_parser("reset", help="go back to the default")
    what = reset.add_mutually_exclusive_group(required=True)
    what.add_argument("key", nargs="?", metavar="KEY", help="with its table: wifi.secured")
    what.add_argument("--all", action="store_true", help="everything that users set, also kill switch and lockdown")
    export = parts.add_parser("export", help="write what users set, in the layout of the settings file")
    export.add_argument("file", nargs="?", default="-", metavar="FILE", help="a new file; -: the standard output")
    brought = parts.add_parser("import", help="set all that such a file says, and forget what users set besides")
    brought.add_argument("file", metavar="FILE", help="- is the standard input")
    check = parts.add_parser("check", help="say what is wrong with settings files; needs no daemon")
    check.add_argument(
        "files", nargs="+", metavar="FILE", help="in the order in which they count; - is the standard input"
    )
    parts.add_parser("schema", help="the JSON Schema of the settings file, for editors; needs no daemon")


def run(options: argparse.Namespace, out: Output) -> int:
    match options.part:
        case "check":
            return _check(options.files, out)
        case "schema":
            return _schema()
        case "import":
            text = read_text(options.file, SETTINGS_BYTES)
    with Client(options.run_folder, timeout=30) as client:
        match options.part:
            case "get":
                _show(_of(client.list_settings(), options.key), options.key, out)
            case "set":
                client.change_setting(options.key, options.value)
                _show(_of(client.list_settings(), options.key), options.key, out)
            case "reset":
                client.reset_settings(options.key)
                _show(_of(client.list_settings(), options.key), options.key or "", out)
            case "export":
                _export(client.list_settings(), options.file, out)
            case "import":
                count = client.import_settings(text)
                out.data({"imported": count})
                out.line(f"{_counted(count)} set.")
    return Exit.OK


def _of(settings: Sequence[Setting], key: str | None) -> Sequence[Setting]:
    """The one of this key, or those of this table. Raises ServiceError."""
    chosen = [each for each in settings if not key or each.key == key or each.key.startswith(f"{key}.")]
    if not chosen:
        raise ServiceError(
            Error.INVALID_ARGUMENT, "Settings", f"there is no setting {key!r}.", "`tunwarden settings get` lists them."
        )
    return chosen


def _show(settings: Sequence[Setting], key: str | None, out: Output) -> None:
    out.data(plain(tuple(settings)))
    if len(settings) == 1 and settings[0].key == key:
        (one,) = settings
        out.line(f"{one.key} = {out.paint(one.value or '(none)', 'bold')}")
        out.line(f"  {safe(one.text)}")
        out.line(f"  Set by       {_origin(one)}")
        out.line(f"  Default      {one.default or '(none)'}")
        if one.allowed:
            out.line(f"  Allowed      {safe(one.allowed)}")
        if one.own is not None and one.origin != "user":
            out.line(f"  Users set    {safe(one.own)}, which is not in force")
        return
    rows = [(each.key, each.value or "(none)", _origin(each)) for each in settings]
    out.table(("KEY", "VALUE", "SET BY"), rows)


def _origin(one: Setting) -> str:
    match one.origin:
        case "administrator":
            return f"the administrator, {one.place}"
        case "user":
            return "user"
        case "default":
            return "default"
        case other:
            return other


def _export(settings: Sequence[Setting], file: str, out: Output) -> None:
    own = [each for each in settings if each.own is not None]
    lines, table = ["version = 1\n"], ""
    for each in own:
        if (home := each.key.rpartition(".")[0]) != table:
            table = home
            lines.append(f"\n[{table}]\n")
        lines.append(f"{each.key.rpartition('.')[2]} = {_toml(each)}\n")
    text = "".join(lines)
    if file == "-":
        out.data(text)
        if not out.as_json:
            sys.stdout.write(text)
        return
    write_new(Path(file), text)
    out.data({"exported": len(own)})
    out.line(f"Wrote {_counted(len(own)).lower()} to {safe(file)}.")


def _toml(one: Setting) -> str:
    """The value as the file has it. Values are words, addresses and URLs of printable ASCII."""
    text = one.own or ""
    match one.kind:
        case "boolean":
            return text
        case "list":
            return f"[{', '.join(_quoted(part) for part in text.split(', ') if part)}]"
        case _:
            return _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _counted(count: int) -> str:
    return "1 setting" if count == 1 else f"{count} settings"


def _schema() -> int:
    import json

    from policies.settings_schema import schema

    print(json.dumps(schema(), indent=2))
    return Exit.OK


def _check(files: Sequence[str], out: Output) -> int:
    from policies.settings import parse_files  # pydantic: slow to import, so only here
    from policies.settings_errors import SettingsError

    try:
        parse_files([(file, read_text(file, LONGEST)) for file in files])
    except SettingsError as error:
        keys = ("file", "line", "column", "key", "problem", "allowed")
        out.data([{key: getattr(one, key) for key in keys} for one in error.problems])
        for one in error.problems:
            out.line(safe(str(one)))
        return Exit.FAILED
    out.data([])
    out.line(f"{safe(', '.join(files))}: no errors.")
    return Exit.OK
