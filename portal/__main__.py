"""`python -m portal COMMAND`: Django's commands on this project."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

from portal.config import ConfigError

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    try:
        execute_from_command_line(["python -m portal", *sys.argv[1:]])
    except ConfigError as err:
        sys.exit(f"portal: {err}")
