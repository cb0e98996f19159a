"""The privileged daemon: the state machine and every effect."""

import os
import sys

# All this before the first import that looks at it.

# pydantic would search every installed distribution for plugins to load into a root process.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


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
