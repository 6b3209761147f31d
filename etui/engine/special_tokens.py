"""Special tokens of a vocabulary, and texts in which no message can forge one.

Special tokens (``<|im_end|>``) separate the turns of a chat. A vocabulary reads them anywhere in a
text, so a message that contains one would end its own turn. Only what the chat template writes may
become one, so three steps surround the rendering:

1. :meth:`SpecialTokens.conceal` replaces the characters of special tokens in a message by
   stand-ins, one for one, so that lengths and slices in the template stay as they are;
2. the template is rendered, and reasoning may append to its text;
3. :meth:`SpecialTokens.tokenize` puts the characters back, and tokenizes the fragments in which
   there were stand-ins with control tokens off. Fragments begin and end at control tokens, where a
   tokenizer starts again anyway, so no other token changes.

A text without special tokens passes through all three unchanged. Stand-ins are the private
characters U+100000 to U+10FFFE. Those that a message contains itself are escaped.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


class TextStream:
    """Incremental decoder that stops at a stop string.

    A character is held back until all its bytes have arrived, and a possible beginning of a stop
    string until it is clear whether it is one. Invalid UTF-8 becomes U+FFFD.

    Attributes:
        stopped: The stop string found; None until then.
        remainder: Text after the stop string.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped: str | None = None
        self.remainder = ""

    def push(self, piece: bytes) -> str:
        """Add the bytes of a token and return the text that is final; empty after a stop string."""
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """End the stream and return the text that was held back."""
        shown = self._take(self._decoder.decode(b"", final=True))
        shown += self._held
        self._held = ""
        return shown

    def _take(self, text: str) -> str:
        if self.stopped is not None:
            self.remainder += text
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = first_stop(text, self._stops)
        if found is not None:
            at, self.stopped = found
            self._held = ""
            self.remainder = text[at + len(self.stopped) :]
            return text[:at]
        keep = held_back(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Find the stop string that is completed first; return its start and the string.

    The end decides, not the start, so that the result does not depend on how the text was split.
    """
    found: tuple[int, int, str] | None = None
    for stop in stops:
        at = text.find(stop)
        if at >= 0 and (found is None or (at + len(stop), at) < found[:2]):
            found = (at + len(stop), at, stop)
    return None if found is None else (found[1], found[2])


def held_back(text: str, stops: Sequence[str]) -> int:
    """Count the characters at the end of ``text`` that may begin a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(stop.startswith(tail) for stop in stops):
            return length
    return 0


Tokenize = Callable[[str, bool], list[int]]
"""Tokenizes a text, with control tokens on or off, and without a begin token."""

_PRIVATE = re.compile("[\U00100000-\U0010ffff]")
_ESCAPE = "\U0010ffff"
_ESCAPED = re.compile("\U0010ffff([\U000f0000-\U000fffff])")
_PLANE = 0x10000
_BASE = 0x100000
_LAST = 0xFFFE
"""Last character that has a stand-in; the special tokens of all known models are below it."""

_TAG = re.compile(
    r"<\|.*\|>|<｜.*｜>|<[^<>\s]*[^\W\d_][^<>\s]*>|\[[^\[\]\s]*[^\W\d_][^\[\]\s]*\]"
    r"|\[(?:BEGIN|END) FINAL RESPONSE\]",
    re.DOTALL,
)
_HTML = re.compile(
    r"</?(a|b|blockquote|body|br|caption|code|dd|div|dl|dt|em|h[1-6]|head|hr|html|i|img|li|ol|p|pre"
    r"|span|strong|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|u|ul)/?>"
)
_SPACE = " \t\n\v\f\r"


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that a vocabulary finds in a text before it splits the rest."""

    text: str
    control: bool = True
    """Whether it is read only with control tokens on (``<|im_end|>``); a user-defined token
    (``<think>``, runs of spaces) is always read."""
    strips_left: bool = False  # Whether spaces before it are dropped
    strips_right: bool = False  # Whether spaces behind it are dropped


class SpecialTokens:
    """The special tokens that no message may forge.

    These are all control tokens, and the user-defined tokens that are tags (``<think>``). Others,
    such as runs of spaces or HTML tags, are ordinary parts of a text.
    """

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        self._tokens = {token.text: token for token in tokens if _is_marker(token)}
        self._lengths: dict[str, list[int]] = {}
        for text in self._tokens:
            lengths = self._lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)
        self._starts = _begins_with(self._tokens)
        self._edges = _any_of(
            edge
            for text in self._tokens
            for edge in (text[0], text[-1])
            if not edge.isalnum() and not edge.isspace()
        )

    def conceal(self, text: str) -> str:
        """Replace the characters of special tokens in a message by stand-ins."""
        text = _escape(text)
        spans = _merge((at, at + len(token.text)) for at, token in self._occurrences(text))
        pieces: list[str] = []
        end = 0
        for start, stop in spans:
            pieces += text[end:start], "".join(map(_stand_in, text[start:stop]))
            end = stop
        return "".join(pieces) + text[end:] if pieces else text

    def has_edges(self, text: str) -> bool:
        """Return whether a message contains a character that begins or ends a special token."""
        return self._edges.search(text) is not None

    def conceal_edges(self, text: str) -> str:
        """Replace every character that begins or ends a special token by its stand-in."""
        return self._edges.sub(lambda found: _stand_in(found[0]), _escape(text))

    def find(self, mark: str) -> str:
        """Build a pattern of a text of a message, with or without stand-ins in it."""
        return "".join(f"[{re.escape(each)}{_stand_in(each)}]" for each in mark)

    def written(self, text: str) -> list[str]:
        """Return the special tokens that the template wrote into a rendered text, in order."""
        return [token.text for _, token in self._disjoint(text)]

    def tokenize(self, text: str, tokenize: Tokenize) -> list[int]:
        """Tokenize a rendered text; only what has no stand-ins is read as a special token."""
        if text.isascii() or not _PRIVATE.search(text):
            return tokenize(text, True)
        tokens: list[int] = []
        for piece, parsed, continued in self._pieces(text):
            if continued:
                tokens += _continue(piece, tokenize)
            else:
                tokens += tokenize(piece, parsed)
        return tokens

    def _pieces(self, text: str) -> Iterator[tuple[str, bool, bool]]:
        """Cut a text into pieces: text, whether control tokens are on, whether it continues."""
        plain: list[str] = []
        at, strips = 0, False
        cuts = [(at, token) for at, token in self._disjoint(text) if token.control]
        for start, token in (*cuts, (len(text), None)):
            fragment = text[at:start]
            if _has_stand_ins(fragment):
                if plain:
                    yield "".join(plain), True, False
                    plain = []
                fragment = fragment.lstrip(_SPACE) if strips else fragment
                if token is not None and token.strips_left:
                    fragment = fragment.rstrip(_SPACE)
                yield from self._literal_pieces(fragment)
            else:
                plain.append(_reveal(fragment))
            if token is not None:
                plain.append(token.text)
                strips = token.strips_right
                at = start + len(token.text)
        if plain:
            yield "".join(plain), True, False

    def _literal_pieces(self, fragment: str) -> Iterator[tuple[str, bool, bool]]:
        """Cut a fragment inside the user-defined tokens of a message, which are always read."""
        text = _reveal(fragment)
        own = set(self._occurrences(_ESCAPED.sub(" ", fragment)))  # as long as `text`
        cuts = [
            at + 1
            for at, token in self._occurrences(text)
            if not token.control and (at, token) not in own
        ]
        start = 0
        for cut in (*cuts, len(text)):
            if start < cut:
                yield text[start:cut], False, start > 0
            start = cut

    def _disjoint(self, text: str) -> Iterator[tuple[int, SpecialToken]]:
        """Find special tokens from left to right, each behind the last."""
        end = 0
        for at, token in self._occurrences(text):
            if at >= end:
                yield at, token
                end = at + len(token.text)

    def _occurrences(self, text: str) -> Iterator[tuple[int, SpecialToken]]:
        """Find the longest special token at each position, overlapping ones included."""
        for found in self._starts.finditer(text):
            at = found.start()
            for length in self._lengths[found[0]]:
                token = self._tokens.get(text[at : at + length])
                if token is not None:
                    yield at, token
                    break


def _is_marker(token: SpecialToken) -> bool:
    """Return whether a message must not contain this token."""
    text = token.text
    if not text or any(ord(char) > _LAST for char in text):
        return False
    return token.control or (_TAG.fullmatch(text) is not None and not _HTML.fullmatch(text))


def _begins_with(texts: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern of the first character of any of these texts, if its second follows."""
    seconds: dict[str, set[str]] = {}
    for text in texts:
        seconds.setdefault(text[0], set()).add(text[1:2])
    firsts = [
        re.escape(first) + ("" if "" in following else f"(?={_any_of(following).pattern})")
        for first, following in sorted(seconds.items())
    ]
    return re.compile("|".join(firsts) if firsts else r"(?!)")


def _any_of(chars: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern of any of these characters; without any, it never matches."""
    escaped = "".join(sorted({re.escape(char) for char in chars}))
    return re.compile(f"[{escaped}]" if escaped else r"(?!)")


def _merge(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join overlapping spans, which come in the order of their starts."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _stand_in(char: str) -> str:
    return chr(_BASE + ord(char))


def _escape(text: str) -> str:
    """Escape a message's own private characters: each becomes two."""
    if text.isascii():
        return text
    return _PRIVATE.sub(lambda found: _ESCAPE + chr(ord(found[0]) - _PLANE), text)


def _has_stand_ins(text: str) -> bool:
    return _PRIVATE.search(_ESCAPED.sub("", text)) is not None


def _reveal(text: str) -> str:
    """Put the characters behind stand-ins and escapes back."""
    parts = _ESCAPED.split(text)  # the odd parts are the escaped characters
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = chr(ord(part) + _PLANE)
        else:
            parts[index] = _PRIVATE.sub(lambda found: chr(ord(found[0]) - _BASE), part)
    return "".join(parts)


def _continue(text: str, tokenize: Tokenize) -> list[int]:
    """Tokenize the rest of a text: a SentencePiece vocabulary puts a space before a new one."""
    lead, whole = tokenize("\n", False), tokenize(f"\n{text}", False)
    return whole[len(lead) :] if whole[: len(lead)] == lead else tokenize(text, False)
