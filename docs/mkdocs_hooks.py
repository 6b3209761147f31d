"""Put the pages of the repository's root into the site; mkdocs calls these functions.

Links to files that are no pages, such as ``../etui/units.py``, become plain text in the site.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {name: f"{name.lower()}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")}
PICTURES = ("data/outcomes", "data/results", "data/seed/figures")
_PIPED_CODE = re.compile(r"`([^`\n]*\\\|[^`\n]*)`")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for name, page in PAGES.items():
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for folder in PICTURES:
        for picture in (ROOT / folder).glob("*.svg"):
            name = f"{folder}/{picture.name}"
            files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the pages of the site, and show the code in tables as GitHub does."""

    def point(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if not target or "://" in target:
            return link[0]
        name = target.removeprefix("../").removeprefix("docs/")
        stem = name.removesuffix(".md")
        if stem == "README":
            return f"[{text}](index.md{anchor})"
        name = PAGES.get(stem, name)
        found = files.get_file_from_path(name) is not None
        return f"[{text}]({name}{anchor})" if found else text

    lines = _LINK.sub(point, markdown).split("\n")
    return "\n".join(
        _PIPED_CODE.sub(_write_code, line) if line.startswith("|") else line for line in lines
    )


def _write_code(code: re.Match[str]) -> str:
    """Write code with an escaped bar as HTML: Python-Markdown would show the backslash."""
    text = html.escape(code[1].replace("\\|", "|"), quote=False)
    return f"<code>{text.replace('|', '&#124;')}</code>"
