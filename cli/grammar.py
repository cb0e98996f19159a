"""The command line as plain data, read from its parsers: for shell completion and the manual."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module

from cli.main import COMMANDS, first_parser


@dataclass(frozen=True, slots=True)
class Argument:
    """An option by its names, or a place (no names)."""

    names: tuple[str, ...]
    metavar: str  # what to write there; empty: nothing is written behind the option
    choices: tuple[str, ...]
    help: str
    optional: bool = True
    many: bool = False

    @property
    def is_file(self) -> bool:
        """Whether a file's name belongs there."""
        return self.metavar == "FILE"


@dataclass(frozen=True, slots=True)
class Command:
    """The program, a command, or a part of one."""

    path: tuple[str, ...]  # without the program's own name
    help: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    parts: dict[str, Command] = field(default_factory=dict)

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(each for each in self.arguments if each.names)

    @property
    def places(self) -> tuple[Argument, ...]:
        return tuple(each for each in self.arguments if not each.names)


def program() -> Command:
    """The whole of it."""
    first = first_parser()
    parts = {}
    for name, text in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"tunwarden {name}", description=text)
        import_module(f"cli.{name.replace('-', '_')}").arguments(parser)
        parts[name] = _command((name,), text, parser)
    options = tuple(each for each in map(_argument, first._actions) if each.names)
    return Command((), "", first.description or "", "", options, parts)


def commands(of: Command) -> Iterator[Command]:
    """This one and all inside it."""
    yield of
    for part in of.parts.values():
        yield from commands(part)


def _command(path: tuple[str, ...], text: str, parser: argparse.ArgumentParser) -> Command:
    arguments, parts = [], {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {each.dest: each.help or "" for each in action._choices_actions}
            parts = {name: _command((*path, name), texts.get(name, ""), part) for name, part in action.choices.items()}
        elif action.help != argparse.SUPPRESS:
            arguments.append(_argument(action))
    return Command(path, text, parser.description or "", parser.epilog or "", tuple(arguments), parts)


def _argument(action: argparse.Action) -> Argument:
    choices = tuple(str(each) for each in action.choices or ())
    metavar = action.metavar if isinstance(action.metavar, str) else "|".join(choices) or action.dest.upper()
    text = (action.help or "") % {"default": action.default} if "%(" in (action.help or "") else action.help or ""
    optional = not action.required if action.option_strings else action.nargs in ("?", "*", argparse.REMAINDER)
    many = action.nargs in ("*", "+", argparse.REMAINDER) or isinstance(action, argparse._AppendAction)
    return Argument(tuple(action.option_strings), "" if action.nargs == 0 else metavar, choices, text, optional, many)
