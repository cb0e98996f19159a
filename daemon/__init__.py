"""The privileged daemon: the state machine and every effect."""

import os
import sys

# Before any import that looks at them. pydantic would search every installed distribution for plugins to load into a
# root process; structlog would load rich for colourful tracebacks, where it is installed (30 ms, 7 MiB).
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
