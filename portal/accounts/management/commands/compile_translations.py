"""Makes of the catalogues in portal/locale what gettext reads. Needs no program besides Python (Babel does it)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Compiles the translations that are newer than what was compiled of them."

    def handle(self, *args: Any, **options: Any) -> None:
        done = [source for source in sources() if compile_one(source)]
        if options["verbosity"]:
            self.stdout.write(f"{len(done)} compiled")


def sources() -> list[Path]:
    return sorted(Path(settings.LOCALE_PATHS[0]).glob("*/LC_MESSAGES/django.po"))


def compile_one(source: Path) -> bool:
    """Whether it was needed. Several may do it at once: the file is replaced by rename."""
    made = source.with_suffix(".mo")
    if made.exists() and made.stat().st_mtime_ns >= source.stat().st_mtime_ns:
        return False
    with source.open("rb") as file:
        catalogue = read_po(file)
    descriptor, name = tempfile.mkstemp(dir=source.parent)
    with os.fdopen(descriptor, "wb") as file:
        write_mo(file, catalogue)  # leaves out what is fuzzy or empty
    Path(name).chmod(0o644)
    Path(name).replace(made)
    return True
