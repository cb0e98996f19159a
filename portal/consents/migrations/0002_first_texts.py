"""The shipped texts become version 1, so that a new portal can ask for consents. Operators publish their own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from django.db import migrations


def publish(apps: Any, schema_editor: Any) -> None:
    Statement = apps.get_model("consents", "Statement")
    for file in sorted((Path(__file__).parent.parent / "texts").glob("*.txt")):
        kind, language = file.stem.split(".")
        text = file.read_text(encoding="utf-8")
        Statement.objects.create(
            kind=kind, version=1, language=language, text=text, sha256=hashlib.sha256(text.encode()).hexdigest()
        )


class Migration(migrations.Migration):
    dependencies = [("consents", "0001_initial")]
    operations = [migrations.RunPython(publish, migrations.RunPython.noop)]
