"""What axe-core says of a page: WCAG 2.2 AA and its best practice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import axe_playwright_python

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
EVERY = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
# What the other colours and the other width can change, on the page that was judged already.
OTHERWISE = {"type": "rule", "values": ["color-contrast", "target-size", "scrollable-region-focusable", "list"]}
PHONE, DESKTOP = {"width": 360, "height": 780}, {"width": 1280, "height": 900}


def violations(page: Any, rules: dict[str, Any] = EVERY) -> list[str]:
    """Of the page as it is; a rule, and where."""
    if page.evaluate("typeof axe") == "undefined":
        # By the debugger, as an extension would: the page's own policy allows no script from elsewhere.
        page.evaluate(AXE)
    options = {"runOnly": rules, "resultTypes": ["violations"]}
    result = page.evaluate(f"axe.run(document, {json.dumps(options)})")
    found = [f"{each['id']}: {node['html'][:160]}" for each in result["violations"] for node in each["nodes"]]
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return [*found, *([f"{width} px too wide"] if width > 0 else [])]


def judged(page: Any) -> list[str]:
    """At a desk in daylight, and on a phone in the dark."""
    found = violations(page)
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    found += [f"dark, phone: {each}" for each in violations(page, OTHERWISE)]
    page.set_viewport_size(DESKTOP)
    page.emulate_media(color_scheme="light")
    return found
