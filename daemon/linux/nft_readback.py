"""What the kernel holds of our table, compared with what was sent.

An acknowledgement is not enough: kernels have accepted rules and ignored parts of them, and other programs change
tables. nft's text cannot be compared with ours, its spelling differs between versions. But `--debug=netlink` prints the
bytecode of each rule, when sending it and when listing it; the same library prints both, so equal bytecode means equal
rules. Hooks, priorities and policies of chains come from the listing's text, which has kept its form since 2014.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

Elements = frozenset[str]

_RULE = re.compile(r"inet tunwarden (\w+)(?: \d+)*$")
_ELEMENT = re.compile(r"element ([^\[\t]*[^\[\t ]) *\[end\]")
_ONE_PORT = re.compile(r"(proto_min reg (\d+)) proto_max reg \2\b")
_LOOKUP = re.compile(r"(lookup reg \d+ set )(\S+)(.*?)(?: 0x0)? \]")  # "no flags" is printed when listing only
_PROPERTIES = {  # lines within a block that belong to the outline
    "chain": ("\t\ttype ",),
    "set": ("\t\ttype ", "\t\tflags ", "\t\ttimeout ", "\t\tgc-interval "),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table as far as it decides about packets. Equal tables treat every packet alike."""

    outline: Counter[str]  # the table's comment and flags, names of sets and counters, each chain with hook and policy
    rules: Mapping[str, tuple[str, ...]]  # chain -> bytecode of each rule, anonymous sets written out
    sets: Mapping[str, Elements] = field(default_factory=dict)  # named sets

    def with_elements(self, name: str, elements: Elements) -> Table:
        return replace(self, sets={**self.sets, name: elements})


@lru_cache(maxsize=4)
def sent(text: str, bytecode: str) -> Table:
    """`read`, of a transaction: the same ones come again."""
    return read(text, bytecode)


def read(text: str, bytecode: str) -> Table:
    """`text` is the ruleset as text, `bytecode` what nft printed when it sent or listed the same ruleset."""
    rules, sets = _bytecode(bytecode)
    return Table(Counter(_outline(text)), rules, sets)


def differences(wanted: Table, found: Table) -> list[str]:
    """What differs, as phrases for people; empty when the tables are equal."""
    said = [f"missing: {line}" for line in wanted.outline - found.outline]
    said += [f"unexpected: {line}" for line in found.outline - wanted.outline]
    for chain in sorted({*wanted.rules, *found.rules}):
        want, have = wanted.rules.get(chain, ()), found.rules.get(chain, ())
        if len(want) != len(have):
            said.append(f"chain {chain}: {len(have)} rules instead of {len(want)}")
        elif want != have:
            at = next(at for at, pair in enumerate(zip(want, have, strict=True), 1) if pair[0] != pair[1])
            said.append(f"chain {chain}: rule {at} differs")
    for name in sorted({*wanted.sets, *found.sets}):
        if wanted.sets.get(name, frozenset()) != found.sets.get(name, frozenset()):
            said.append(f"set {name}: other elements")
    return said


def elements(bytecode: str, name: str) -> Elements:
    """The elements that a transaction which only fills the set `name` has sent."""
    return _bytecode(bytecode)[1].get(name, frozenset())


def _outline(text: str) -> Iterator[str]:
    """Every line outside of chains and sets, and what those are. Rules are read as bytecode."""
    inside = ""
    for line in text[text.find("table inet tunwarden {\n") :].splitlines():
        if line.startswith("\t\t"):
            if line.startswith(_PROPERTIES.get(inside.partition(" ")[0], ())):
                yield f"{inside}: {line.strip()}"
        elif line == "\t}":
            inside = ""
        elif line.endswith(" {"):
            inside = line.strip(" \t{")
            yield inside
        elif line.startswith("\t"):
            yield line.strip()


def _bytecode(text: str) -> tuple[dict[str, tuple[str, ...]], dict[str, Elements]]:
    """Rules by chain and elements by named set.

    A listing names anonymous sets (`__set3`) and prints them all first; when sending they are all `__set%d` and precede
    the rule that uses them, in the order of its lookups. Both forms become one by writing the elements into the rule.

    When sending, nft may first print elements of the table that is about to be replaced, in the form of a listing.
    """
    text, listing, _ = text.partition("\ntable inet tunwarden {\n")
    rules: dict[str, list[str]] = {}
    sets: dict[str, set[str]] = {}
    pending: list[str] = []  # keys in `sets` of the anonymous sets that the next rule being sent looks up
    current = ""
    for block in text.split("\n\n"):  # a rule, and the sets before it
        above, _, code = block.partition("\n  [")
        for line in above.splitlines():
            if line.startswith("\telement"):
                if current:
                    sets[current].update(_ELEMENT.findall(line))
            elif line.startswith("inet tunwarden @"):
                current = line[16:] if listing else ""
            elif match := _RULE.match(line):
                if " lookup " in code:
                    code = _LOOKUP.sub(lambda found: _written_out(found, pending, sets), code)
                if " proto_max " in code:
                    code = _ONE_PORT.sub(r"\1", code)
                rules.setdefault(match[1], []).append(code.rstrip("\n"))
            elif " tunwarden " in line:
                current = line.partition(" tunwarden ")[0].rpartition(" ")[2]
                if current == "__set%d":
                    # Printed twice: once with its size when created, once with its elements.
                    if " size " in line or not pending:
                        pending.append(f"__set%d/{len(sets)}")
                    current = pending[-1]
            if current:
                sets.setdefault(current, set())
    named = {name: frozenset(found) for name, found in sets.items() if not name.startswith("__set") and found}
    return {chain: tuple(found) for chain, found in rules.items()}, named


def _written_out(lookup: re.Match[str], pending: list[str], sets: Mapping[str, set[str]]) -> str:
    """The look-up, with the elements in place of the name where that is the kernel's choice."""
    before, name, after = lookup.groups()
    if name.startswith("__set"):
        name = "{" + ", ".join(sorted(sets.get(pending.pop(0) if name == "__set%d" else name, ()))) + "}"
    return f"{before}{name}{after} ]"
