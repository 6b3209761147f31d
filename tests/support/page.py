"""A page of etui as a browser would read it, and what no page may do."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with their attributes, and the texts of the JSON elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.json: dict[str, str] = {}
        self._inside: str | None = None
        self._paragraphs = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._paragraphs += tag == "p"
        if tag == "script" and values.get("type") == "application/json":
            self._inside = values["id"]

    def handle_endtag(self, tag) -> None:
        self._inside = None
        self._paragraphs -= tag == "p"
        assert self._paragraphs >= 0, "a paragraph is closed twice"

    def handle_data(self, data) -> None:
        if self._inside:
            self.json[self._inside] = self.json.get(self._inside, "") + data


def check_loads_nothing(text: str) -> Page:
    """Check that a page loads nothing and runs nothing but its own scripts."""
    page = Page(text)
    assert not re.search(r"(?i)\b(https?|wss?|ftp):|//[a-z0-9-]+\.[a-z]", text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert not {"src", "href", "action", "srcset", "data"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\((?!#)", text)  # only what is in the page itself
    assert "@import" not in text
    assert "default-src 'none'" in text
    return page
