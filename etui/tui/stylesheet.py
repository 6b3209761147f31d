"""The app's stylesheet, which parses a source again only after a colour has changed."""

from __future__ import annotations

from textual.css.stylesheet import Stylesheet


class CachedStylesheet(Stylesheet):
    """Keeps what is parsed as long as the theme's variables stay the same.

    Textual sets the variables and parses all sources again for each screen that is opened, twice
    for the first one, although only a theme changes them.
    """

    def __init__(self, *, variables: dict[str, str]) -> None:
        super().__init__(variables=variables)
        self._known = dict(variables)

    def set_variables(self, variables: dict[str, str]) -> None:
        """Set CSS variables; the same ones again change nothing."""
        if variables != self._known:
            self._known = dict(variables)
            super().set_variables(variables)

    def reparse(self) -> None:
        """Parse what is not parsed with these variables yet."""
        self.parse()
