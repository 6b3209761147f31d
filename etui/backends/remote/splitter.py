"""Split the text of an answer into thinking and answer, where a server does not do it itself."""

from __future__ import annotations

from etui.engine.text_stream import TextStream, held_back


class ThinkingSplitter:
    """Finds the end of the thinking in streamed text.

    Args:
        close: Text that ends the thinking (a tag, or ``Answer:``); empty for text without thinking.
        opening: Tag that begins it; the text thinks only if it begins with the tag.
        thinks: Whether the text begins with thinking without an opening tag.

    Attributes:
        thinking: Whether the text is still thinking.
    """

    def __init__(self, close: str = "", opening: str = "", *, thinks: bool = False) -> None:
        self._close = TextStream([close]) if close else None
        self._open = opening if close else ""
        self._held = ""
        self._begun = thinks or not self._open
        self._at_begin = False  # of the answer after the thinking: its white space is dropped
        self.thinking = thinks and self._close is not None

    @property
    def may_think(self) -> bool:
        """Whether the next text may be thinking: it is, or it is not clear yet."""
        return self.thinking or not self._begun

    def push(self, text: str) -> tuple[str, str]:
        """Add text and return the new thinking and the new text of the answer."""
        if not self._begun:
            self._held += text
            begin = self._held.lstrip()
            if begin.startswith(self._open):
                self._begun = self.thinking = True
                text, self._held = begin[len(self._open) :], ""
            elif not begin or held_back(begin, [self._open]) == len(begin):
                return "", ""  # it may still become the tag
            else:
                self._begun = True
                text, self._held = self._held, ""
        if not self.thinking:
            return "", self._trim(text)
        assert self._close is not None
        thought = self._close.push(text.encode("utf-8", "surrogatepass"))
        if self._close.stopped is None:
            return thought, ""
        self.thinking, self._at_begin = False, True
        return thought, self._trim(self._close.remainder)

    def _trim(self, text: str) -> str:
        if self._at_begin:
            text = text.lstrip()
            self._at_begin = not text
        return text

    def finish(self) -> tuple[str, str]:
        """End the text and return what was held back, as thinking and answer."""
        held, self._held = self._held, ""
        if self.thinking and self._close is not None:
            return self._close.finish(), ""
        return "", held
