"""A screen that lays a growing text out once, where Textual does it twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import TextArea

_OF_THE_SCREENS = frozenset({"f6", "f7"})


class TextBox(TextArea, inherit_bindings=False):
    """TextArea that leaves F6 and F7 to the screens, instead of selecting the line or the text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        binding
        for binding in TextArea.BINDINGS
        if not (isinstance(binding, Binding) and binding.key in _OF_THE_SCREENS)
    ]


class SettledLayout(Screen[None]):
    """A screen whose layout asks for no further one because it gave widgets their new sizes.

    Textual stores the size that a layout has found in ``Widget.virtual_size``, which requests a
    layout whenever it changes: the second one finds what the first one did. Whatever a new size
    does change, such as a scroll bar that is needed now, still requests its own.
    """

    def _refresh_layout(self, size: Size | None = None, scroll: bool = False) -> None:
        found: Any = Widget.virtual_size
        before, found._layout = found._layout, False
        try:
            super()._refresh_layout(size, scroll)
        finally:
            found._layout = before


if TYPE_CHECKING:
    _Mixin = Widget
else:  # a style sheet names the first widget among the bases of a class
    _Mixin = object


class BlankBox(_Mixin):
    """Mixin for a container whose lines are all alike: those drawn before stay when it grows."""

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        if size.width == self._size.width:
            self._size = size  # Textual draws every line of a widget again if this differs
            layout = False  # and if its virtual size does
        return super()._size_updated(size, virtual_size, container_size, layout)
