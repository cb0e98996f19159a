"""The scripts of launchd/, which is no package: nothing of that name can be imported."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TOP = Path(__file__).parents[2]
LAUNCHD = TOP / "launchd"


def load(name: str) -> ModuleType:
    """The module, as the other scripts of the folder would import it."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, LAUNCHD / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


property_list, install, uninstall = load("property_list"), load("install"), load("uninstall")
