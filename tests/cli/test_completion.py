"""Shell completion, tried in the real shells; and the manual, read by real formatters."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import manual
from cli.codes import Exit
from cli.completion import SHELLS
from cli.grammar import commands, program
from cli.main import COMMANDS
from policies.settings_words import SENTENCES

CASES = {
    ("",): {"status", "settings", "panic-reset", "--json", "--version"},
    ("st",): {"status"},
    ("--json", "set"): {"settings"},
    ("settings", ""): {"get", "set", "reset", "export", "import", "check", "schema", "--help", "--json"},
    ("settings", "s"): {"set", "schema"},
    ("lockdown", "o"): {"on", "off"},
    ("known", "add", "--security", "wpa3"): {"wpa3"},
    ("known", "add", "--sec"): {"--security"},
    ("connect", "--w"): {"--wait"},
    ("connect", "--timeout", ""): set(),
    ("trace", "on", "--"): {"--minutes", "--hide-names", "--help", "--json"},
    ("prompts", "answer", "x", "al"): {"always"},
    ("completion", "f"): {"fish"},
    ("settings", "check", "a-f"): {"a-file.toml"},
    ("profiles", "import", "home", "a-"): {"a-file.toml"},
    ("nonsense", "st"): {"status"},
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "a-file.toml").write_text("")
    (folder / "bin").mkdir()
    (folder / "bin" / "tunwarden").write_text("#!/bin/sh\n")  # no daemon: test_completion_live.py has one
    (folder / "bin" / "tunwarden").chmod(0o755)
    for shell, write in SHELLS.items():
        (folder / f"tunwarden.{shell}").write_text("\n".join(write(program())) + "\n")
    return folder


def shell(folder: Path, *words: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is missing: run lab/install-missing")
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb", "LANG": "C.UTF-8"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def in_bash(folder: Path, words: tuple[str, ...]) -> set[str]:
    code = (
        'set -u; . ./tunwarden.bash; COMP_WORDS=(tunwarden "$@"); COMP_CWORD=$#; _tunwarden; '
        'printf "%s\\n" ${COMPREPLY[@]+"${COMPREPLY[@]}"}'
    )
    return set(shell(folder, "bash", "--norc", "-c", code, "bash", *words).split())


def in_zsh(folder: Path, words: tuple[str, ...]) -> set[str]:
    """zsh runs the function; the helpers of its completion system, which need a terminal, note what they get."""
    code = (
        "_describe() { local -a all; all=(${(P)argv[-1]}); print -rl -- ${all%%:*}; }; _files() { print -rl -- *; }; "
        "compadd() { print -rl -- ${(P)argv[-1]}; }; "
        'compdef() { true; }; . ./tunwarden.zsh; words=(tunwarden "$@"); CURRENT=$#words; _tunwarden'
    )
    found = shell(folder, "zsh", "-f", "-c", code, "zsh", *words).split()
    return {word for word in found if word.startswith(words[-1])}


def in_fish(folder: Path, words: tuple[str, ...]) -> set[str]:
    line = " ".join(("tunwarden", *words))
    code = f"source tunwarden.fish; complete -C '{line}'"
    return {found.split("\t")[0] for found in shell(folder, "fish", "--no-config", "-c", code).splitlines()}


@pytest.mark.parametrize("complete", [in_bash, in_zsh, in_fish])
@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_completion(
    scripts: Path, complete: Callable[[Path, tuple[str, ...]], set[str]], words: tuple[str, ...]
) -> None:
    wanted, found = CASES[words], complete(scripts, words)
    if words == ("",) or (words[-1] == "" and complete is in_fish):
        assert {word for word in wanted if not (complete is in_fish and word.startswith("-"))} <= found
    else:
        assert {word for word in found if not word.startswith("tunwarden.")} == wanted


def test_every_command_and_option_is_known() -> None:
    top = program()
    assert list(top.parts) == list(COMMANDS)
    every = list(commands(top))
    assert all(each.help for each in every if each.path), [each.path for each in every if not each.help]
    assert all(each.help or each.choices for command in every for each in command.arguments), "each says what it is"


# --- the manual -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    manual.main(folder)
    return folder


def test_the_manual_says_everything() -> None:
    pages = manual.pages()
    plain = {name: text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "") for name, text in pages.items()}
    for command in commands(program()):
        assert f"tunwarden {' '.join(command.path)}".strip() in plain["tunwarden.1"]
        for option in command.options:
            assert option.names[-1] in plain["tunwarden.1"] or option.names[-1] == "--help"
    for code in Exit:
        assert f"\n{code.value}\n" in plain["tunwarden.1"]
    for key in SENTENCES:
        assert key.rpartition(".")[2] in plain["tunwarden.toml.5"]


@pytest.mark.parametrize("page", ["man1/tunwarden.1", "man5/tunwarden.toml.5", "man8/tunwardend.8"])
def test_the_manual_is_well_formed(manuals: Path, page: str) -> None:
    assert (manuals / page).is_file()
    shell(manuals, "mandoc", "-T", "lint", "-W", "warning", page)
    shell(manuals, "groff", "-man", "-ww", "-z", "-Tutf8", page)
    shown = shell(manuals, "mandoc", "-T", "utf8", page)
    assert "NAME" in shown.replace("N\bN", "N").replace("A\bA", "A").replace("M\bM", "M").replace("E\bE", "E")


def test_the_manual_is_the_same_from_the_same_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert manual.pages() == manual.pages()
    assert ".TH TUNWARDEN 1 2023-11-14 " in manual.pages()["tunwarden.1"]
