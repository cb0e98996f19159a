"""The house: whose names the packages are, and who may import whom (literal packages, generic names, fenced)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
OURS = ("daemon", "policies", "ipc", "cli", "lab")

# Who never imports whom. import-linter holds the layers of what exists; these also hold for folders still to come.
APART = {
    "daemon/linux": ("daemon.macos",),
    "daemon/macos": ("daemon.linux",),
    "portal": OURS,
    "policies": ("portal", "daemon", "ipc", "cli", "lab"),
    "ipc": ("portal", "daemon", "cli", "lab"),
    "daemon": ("portal", "cli", "lab"),
    "cli": ("portal", "daemon", "lab"),
}


@pytest.mark.parametrize("package", OURS)
def test_nobody_else_owns_our_package_names(package: str) -> None:
    """A second owner of such a generic name could be imported by a root process in our place."""
    assert set(packages_distributions().get(package, [])) == {"tunwarden"}


def imported(source: str) -> Iterator[str]:
    """Every module that a text imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
                yield from (f"{module}.{name.name}" for name in node.names)


def strangers(source: str, forbidden: tuple[str, ...]) -> list[str]:
    return [name for name in imported(source) if any(f"{name}.".startswith(f"{other}.") for other in forbidden)]


@pytest.mark.parametrize("folder, forbidden", APART.items(), ids=APART.keys())
def test_apart(folder: str, forbidden: tuple[str, ...]) -> None:
    found = {str(file): strangers(file.read_text(), forbidden) for file in (TOP / folder).rglob("*.py")}
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize(
    "source, forbidden, expected",
    [
        ("import daemon.macos.pf", ("daemon.macos",), ["daemon.macos.pf"]),
        ("from daemon import macos", ("daemon.macos",), ["daemon.macos"]),
        ("def f():\n    from portal.models import User", ("portal",), ["portal.models", "portal.models.User"]),
        ("import daemon.macosx", ("daemon.macos",), []),
    ],
)
def test_strangers_are_found(source: str, forbidden: tuple[str, ...], expected: list[str]) -> None:
    assert strangers(source, forbidden) == expected


def test_e3_root_runs_no_shell() -> None:
    """E3, E4: nothing that runs as root starts a shell."""
    for folder in ("daemon", "ipc", "policies", "cli"):
        for file in (TOP / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.keyword) and node.arg == "shell":
                    raise AssertionError(f"{file}:{node.value.lineno}: shell=")
                if isinstance(node, ast.Attribute) and node.attr in ("system", "popen", "create_subprocess_shell"):
                    raise AssertionError(f"{file}:{node.lineno}: {node.attr}")
