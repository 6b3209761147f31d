"""Text input without the keys that belong to the screens."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import TextArea

_OF_THE_SCREENS = frozenset({"f6", "f7"})


class TextBox(TextArea, inherit_bindings=False):
    """TextArea that leaves F6 and F7 to the screens, instead of selecting the line or the text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        binding
        for binding in TextArea.BINDINGS
        if not (isinstance(binding, Binding) and binding.key in _OF_THE_SCREENS)
    ]
