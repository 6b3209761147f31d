"""A place to type, without the keys that belong to the screens."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import TextArea

_OF_THE_SCREENS = frozenset({"f6", "f7"})


class TextBox(TextArea, inherit_bindings=False):
    """A TextArea where F6 shows the models, as everywhere, and does not select the line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        binding
        for binding in TextArea.BINDINGS
        if not (isinstance(binding, Binding) and binding.key in _OF_THE_SCREENS)
    ]
