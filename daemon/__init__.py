"""The privileged daemon: the state machine and every effect."""

import os
import sys
from types import ModuleType

# All this before the first import that looks at it.

# pydantic would search every installed distribution for plugins to load into a root process.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
if "pydantic" not in sys.modules:
    # The searcher itself is importlib.metadata, with zipfile, email and tempfile: 1 MiB to find nothing.
    _loader = ModuleType("pydantic.plugin._loader")
    _loader.get_plugins = tuple  # type: ignore[attr-defined]
    sys.modules[_loader.__name__] = _loader


def _absent(*names: str) -> None:
    """Modules that libraries import if they can and do without if they cannot: here they cannot.

    What None in sys.modules means: Python's reference, 5.3.1. Modules that are loaded already are left alone.
    """
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


_absent(
    "ssl",  # asyncio's; nothing here speaks TLS: OpenSSL is 10 ms and 4 MiB
    "rich",  # structlog's, for colourful tracebacks: 30 ms and 7 MiB where it is installed
    "twisted",  # structlog's
)
if {"_md5", "_sha1", "_sha3", "_blake2"} <= set(sys.builtin_module_names):
    _absent("_hashlib")  # OpenSSL again. Without it, hashlib takes the interpreter's own functions, where it has them


def _import_structlog() -> None:
    """It wants one name of `pickle`, which nobody here uses: 0.5 MiB."""
    if "pickle" in sys.modules:
        return
    stand_in = ModuleType("pickle")
    stand_in.PicklingError = TypeError  # type: ignore[attr-defined]
    sys.modules["pickle"] = stand_in
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["pickle"]


_import_structlog()
