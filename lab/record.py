"""Record the story as a picture for the README: `python -m lab.record docs/story.svg`. Exit status as the story's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 118  # columns


def main() -> int:
    target = Path(sys.argv[1])
    story = subprocess.run(
        [sys.executable, "-m", "lab.story"],
        check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, "FORCE_COLOR": "1"},
    )  # fmt: skip
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(story.stdout.rstrip()))
        picture = console.export_svg(title="make run")
    # No fonts from somewhere else: the reader's own monospaced one will do.
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL).replace("Fira Code", "monospace")
    target.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")
    print(story.stdout)
    return story.returncode


if __name__ == "__main__":
    sys.exit(main())
