"""The interface in Varlink's description language (https://varlink.org/Interface-Definition), docs as comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipc import interface
from ipc.access import Access
from ipc.describe import Field, Method, Struct, Type, methods_of, structs
from ipc.errors import Error

WHO = {
    Access.READ: "any local user",
    Access.CHANGE: "root or the group tunwarden (on D-Bus also whom polkit lets)",
    Access.ADMIN: "root (on D-Bus also whom polkit lets)",
}
ERROR_FIELDS = (
    Field("what", Type("string"), "What was attempted."),
    Field("why", Type("string"), "Why it failed."),
    Field("remedy", Type("string"), "What to do about it; may be empty."),
)


def names() -> tuple[str, ...]:
    """The Varlink interfaces, in order."""
    return tuple(f"{interface.NAME}.{name}" for name in (*interface.INTERFACES, "Error"))


def render(name: str) -> str:
    """The description of one interface, named in full."""
    last = name.rpartition(".")[2]
    return "\n".join(_errors(name) if last == "Error" else _interface(name, last))


def access_text(method: Method) -> str:
    """Who may call it, in words."""
    text = WHO[method.access]
    if method.opens:
        return f"{text}; with {method.opens}=false: {WHO[Access.ADMIN]}"
    if method.relaxes:
        values = " and ".join(f"{name}={str(value).lower()}" for name, value in method.relaxes)
        return f"{text}; with {values}: {WHO[Access.ADMIN]}"
    if method.tightens:
        return f"{text}; with a key's strictest value: {WHO[Access.CHANGE]}"
    return text


def _interface(name: str, last: str) -> Iterator[str]:
    yield from _comment(interface.INTERFACES[last])
    yield f"interface {name}"
    methods = methods_of(last)
    for struct in _used(methods):
        yield ""
        yield from _comment(struct.doc)
        yield f"type {struct.name} {_fields(struct.fields)}"
    for method in methods:
        yield ""
        yield from _comment(method.doc)
        yield from _comment(f"Access: {access_text(method)}.")
        if method.errors:
            yield from _comment(f"Errors: {', '.join(error.value[0] for error in method.errors)}.")
        returned = (method.returns,) if method.returns else ()
        yield f"method {method.name}{_fields(method.parameters)} -> {_fields(returned)}"
    yield ""


def _errors(name: str) -> Iterator[str]:
    yield from _comment("The errors that methods of the other interfaces answer.")
    yield f"interface {name}"
    for error in Error:
        yield ""
        yield from _comment(error.doc)
        yield f"error {error.value[0]} {_fields(ERROR_FIELDS)}"
    yield ""


def _used(methods: Iterable[Method]) -> list[Struct]:
    """The structs these methods speak of, and those inside them, in the order they are written."""
    wanted = [field.type.base for method in methods for field in (*method.parameters, method.returns) if field]
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in structs() and name not in found:
            found.add(name)
            wanted.extend(field.type.base for field in structs()[name].fields)
    return [struct for name, struct in structs().items() if name in found]


def _fields(fields: tuple[Field, ...]) -> str:
    if not fields:
        return "()"
    lines: list[str] = []
    for field in fields:
        lines.extend(f"  {line}" for line in _comment(field.doc))
        comma = "" if field is fields[-1] else ","
        lines.append(f"  {field.name}: {_type(field)}{comma}")
    return "\n".join(("(", *lines, ")"))


def _type(field: Field) -> str:
    nullable = field.type.nullable or not field.required
    return ("?" if nullable else "") + ("[]" if field.type.many else "") + field.type.base


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}".rstrip() for line in text.splitlines())
