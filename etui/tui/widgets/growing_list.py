"""Lists of an answer that still grows: only the last item is written again.

Textual builds every widget of a list again whenever something is appended to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets._markdown import (
    MarkdownBlock,
    MarkdownBullet,
    MarkdownBulletList,
    MarkdownFence,
    MarkdownList,
    MarkdownListItem,
    MarkdownOrderedList,
    MarkdownParagraph,
)

W = TypeVar("W", bound=Widget)


class GrowingBulletList(MarkdownBulletList):
    """A list with bullets that keeps the items before its last one when it grows."""

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if not _takes(self, block):
            await super()._update_from_block(block)
            return
        await _grow_list(self, block, 0)


class GrowingOrderedList(MarkdownOrderedList):
    """A list with numbers that keeps the items before its last one when it grows."""

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if not _takes(self, block):
            await super()._update_from_block(block)
            return
        first = _items(block)[0].bullet
        await _grow_list(self, block, int(first) if first.isdecimal() else 1)


async def _grow_list(block: MarkdownList, newer: MarkdownBlock, number: int) -> None:
    """Write the last item of a list again, and mount those after it."""
    block._copy_context(newer)
    rows, items = _rows(block), _items(newer)
    last = len(rows) - 1
    column = list(items[last]._blocks)
    if number:  # the list is composed from its last item on, which it would number as its first
        items[last].bullet = str(number + last)
    newer._blocks = list(items[last:])
    made, *new = [row for row in newer.compose() if isinstance(row, Horizontal)]
    await _grow_item(_only(rows[last].children, Vertical), column)
    _align(rows, made)
    if new:
        await block.mount_all(new)


def _rows(block: MarkdownBlock) -> list[Horizontal]:
    return list(block.query_children(Horizontal))


def _only(widgets: Iterable[Widget], kind: type[W]) -> W:
    (found,) = (widget for widget in widgets if isinstance(widget, kind))
    return found


def _items(block: MarkdownBlock) -> list[MarkdownListItem]:
    return [item for item in block._blocks if isinstance(item, MarkdownListItem)]


def _takes(block: Widget, newer: MarkdownBlock) -> bool:
    """Return whether a block can take the content of a newer version of it."""
    if type(block) is not type(newer):
        return False
    if isinstance(block, MarkdownList):
        return 0 < len(_rows(block)) <= len(_items(newer))
    return isinstance(block, MarkdownParagraph | MarkdownFence)


async def _grow_item(column: Vertical, blocks: Sequence[MarkdownBlock]) -> None:
    """Give an item the blocks of a newer version of it, of which only the last ones differ."""
    before = [child for child in column.children if isinstance(child, MarkdownBlock)]
    kept = max(0, len(before) - 1)
    if before:
        if len(blocks) > kept and _takes(before[-1], blocks[kept]):
            await before[-1]._update_from_block(blocks[kept])
            kept += 1
        else:
            await before[-1].remove()
    if new := blocks[kept:]:
        await column.mount_all(new)


def _align(rows: Sequence[Horizontal], made: Horizontal) -> None:
    """Set the numbers of a list as far to the right as those of its newer version."""
    bullets = [_only(row.children, MarkdownBullet) for row in rows]
    width = len(_only(made._pending_children, MarkdownBullet).symbol)
    if len(bullets[-1].symbol) == width:
        return
    for bullet in bullets:
        bullet.symbol = bullet.symbol.lstrip().rjust(width)
        bullet.refresh(layout=True)
