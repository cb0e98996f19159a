"""tunwarden completion bash | zsh | fish: what makes the shell complete our commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cli.codes import Exit
from cli.completion_values import KINDS, meant, values
from cli.output import Output

if TYPE_CHECKING:
    from cli.grammar import Argument, Command

EPILOG = """\
bash: tunwarden completion bash > /usr/share/bash-completion/completions/tunwarden
zsh:  tunwarden completion zsh > /usr/local/share/zsh/site-functions/_tunwarden
fish: tunwarden completion fish > /usr/share/fish/vendor_completions.d/tunwarden.fish"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=tuple(SHELLS), nargs="?", help="the shell to write for")
    parser.add_argument("--values", choices=tuple(KINDS), help=argparse.SUPPRESS)  # what the scripts ask for


def run(options: argparse.Namespace, out: Output) -> int:
    from cli.grammar import program

    if options.values:
        for value in values(options.values, options.run_folder):
            print(value)
        return Exit.OK
    if options.shell is None:
        raise ValueError(f"Name a shell: {', '.join(SHELLS)}.")
    print("\n".join(SHELLS[options.shell](program())))
    return Exit.OK


def _words(command: Command) -> list[tuple[str, str]]:
    """What may come next, each with its text."""
    words = [(name, part.help) for name, part in command.parts.items()]
    words += [(choice, place.help) for place in command.places for choice in place.choices]
    words += [(name, option.help) for option in command.options for name in option.names if name.startswith("--")]
    return [*words, ("--json", "for programs: JSON")] if command.path else words


def _takes_file(command: Command) -> bool:
    return any(place.is_file for place in command.places)


def _kind(command: Command) -> str:
    """What the daemon knows of its first place; "" where that is something else."""
    return meant(command.path[0], command.places[0].metavar) if command.path and command.places else ""


def _key(path: Sequence[str]) -> str:
    return "".join(f" {word}" for word in path)


def _valued(command: Command) -> Iterator[tuple[str, Argument]]:
    """Options behind which something is written, by where they stand."""
    for option in command.options:
        if option.metavar:
            yield from ((f"{_key(command.path)} {name}", option) for name in option.names)


def bash(top: Command) -> Iterator[str]:
    """The script for bash."""
    from cli.grammar import commands

    every = list(commands(top))
    yield "# Written by `tunwarden completion bash`."
    yield "_tunwarden() {"
    yield "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at= i"
    yield "    local words= files= kind= value quoted"
    yield "    local -a found=()"
    yield "    COMPREPLY=()"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        case "$at ${COMP_WORDS[i]}" in'
    yield f'            {_any(_key(each.path) for each in every if each.path)}) at="$at ${{COMP_WORDS[i]}}" ;;'
    yield "        esac"
    yield "    done"
    yield '    case "$at $prev" in'
    for each in every:
        for place, option in _valued(each):
            kind = meant(each.path[0] if each.path else "", option.metavar)
            choices = " ".join(option.choices)
            yield f'        "{place}") words="{choices}"; files={_yes(option.is_file)}; kind={kind} ;;'
    yield '        *) case "$at" in'
    for each in every:
        words, files = " ".join(word for word, _ in _words(each)), _yes(_takes_file(each))
        yield f'            "{_key(each.path)}") words="{words}"; files={files}; kind={_kind(each)} ;;'
    yield "        esac"
    yield '        [ "$prev" = "${at##* }" ] || kind= ;;'
    yield "    esac"
    yield '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")'
    # Never `compgen -W` for what others have named: that would run a $(command) in it.
    yield '    [ -z "$kind" ] || while IFS= read -r value; do'
    yield '        printf -v quoted %q "$value"'
    yield '        if [[ "$value" = "$cur"* || "$quoted" = "$cur"* ]]; then found+=("$quoted"); fi'
    yield '    done < <(tunwarden completion --values "$kind" 2>/dev/null)'
    yield '    [ "${#found[@]}" -eq 0 ] || COMPREPLY=("${found[@]}")'
    yield '    [ -z "$files" ] || { compopt -o filenames 2>/dev/null; mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <('
    yield '        compgen -f -- "$cur"); }'
    yield "}"
    yield "complete -F _tunwarden tunwarden"


def zsh(top: Command) -> Iterator[str]:
    """The script for zsh."""
    from cli.grammar import commands

    every = list(commands(top))
    yield "#compdef tunwarden"
    yield "# Written by `tunwarden completion zsh`."
    yield "_tunwarden() {"
    yield "    local at files kind"
    yield "    local -a found known"
    yield "    integer i"
    yield "    for ((i = 2; i < CURRENT; i++)); do"
    yield '        case "$at $words[i]" in'
    yield f'            ({_any(_key(each.path) for each in every if each.path)}) at="$at $words[i]" ;;'
    yield "        esac"
    yield "    done"
    yield '    case "$at $words[CURRENT-1]" in'
    for each in every:
        for place, option in _valued(each):
            kind = meant(each.path[0] if each.path else "", option.metavar)
            choices = " ".join(option.choices)
            yield f'        ("{place}") found=({choices}); files={_yes(option.is_file)}; kind={kind} ;;'
    yield '        (*) case "$at" in'
    for each in every:
        words, files = " ".join(_quoted(f"{word}:{text}") for word, text in _words(each)), _yes(_takes_file(each))
        yield f'            ("{_key(each.path)}") found=({words}); files={files}; kind={_kind(each)} ;;'
    yield "        esac"
    yield '        [[ "$words[CURRENT-1]" = "${at##* }" ]] || kind= ;;'
    yield "    esac"
    yield "    (( $#found == 0 )) || _describe -o tunwarden found"
    # compadd quotes what it inserts.
    yield '    [[ -z "$kind" ]] || { known=("${(@f)$(tunwarden completion --values "$kind" 2>/dev/null)}"); '
    yield '        known=("${(@)known:#}"); (( $#known == 0 )) || compadd -a known; }'
    yield '    [[ -z "$files" ]] || _files'
    yield "}"
    yield 'if [[ "$funcstack[1]" = _tunwarden ]]; then _tunwarden "$@"; else compdef _tunwarden tunwarden; fi'


def fish(top: Command) -> Iterator[str]:
    """The script for fish."""
    from cli.grammar import commands

    every = list(commands(top))
    yield "# Written by `tunwarden completion fish`."
    yield "function __tunwarden_at"
    yield "    set -l at ''"
    yield "    for word in (commandline -opc)[2..-1]"
    yield '        if contains -- "$at $word" ' + " ".join(_quoted(_key(each.path)) for each in every if each.path)
    yield '            set at "$at $word"'
    yield "        end"
    yield "    end"
    yield '    test "$at" = "$argv[1]"'
    yield "end"
    yield "function __tunwarden_first"
    yield "    set -l words (commandline -opc)"
    yield '    __tunwarden_at "$argv[1]"; and test "$words[-1]" = (string split \' \' -- "$argv[1]")[-1]'
    yield "end"
    yield "complete -c tunwarden -f"
    for each in every:
        here = f"complete -c tunwarden -n {_quoted('__tunwarden_at ' + _quoted(_key(each.path)))}"
        for word, text in _words(each):
            if not word.startswith("--"):
                yield f"{here} -a {_quoted(word)} -d {_quoted(text)}"
        for option in each.options:
            name = next((name for name in option.names if name.startswith("--")), "")
            yield f"{here} -l {name[2:]} -d {_quoted(option.help)}{_value(each, option)}"
        if each.path:
            yield f"{here} -l json -d 'for programs: JSON'"
        if kind := _kind(each):
            first = _quoted(f"__tunwarden_first {_quoted(_key(each.path))}")
            yield f"complete -c tunwarden -n {first} -a {_asked(kind)}"
        if _takes_file(each):
            yield f"{here} -F"


def _asked(kind: str) -> str:
    """What the daemon knows, for fish, which takes each line as a word and quotes what it inserts."""
    return _quoted(f"(tunwarden completion --values {kind} 2>/dev/null)")


def _value(command: Command, option: Argument) -> str:
    """What is written behind it, for fish."""
    if not option.metavar:
        return ""
    if kind := meant(command.path[0] if command.path else "", option.metavar):
        return f" -x -a {_asked(kind)}"
    return " -r -F" if option.is_file else f" -x -a {_quoted(' '.join(option.choices))}"


def _any(paths: Iterator[str]) -> str:
    return "|".join(f'"{path}"' for path in paths)


def _yes(value: bool) -> str:
    return "1" if value else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "'\\''") + "'"


SHELLS: dict[str, Callable[[Command], Iterator[str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
