"""Work between blocks: after each of them, on a resume too, and never in the middle of one."""

from __future__ import annotations

from etui.bench.run import NoSideWork, interleave
from etui.bench.schedule import Piece


class Noted(NoSideWork):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def work(self, ended) -> None:
        self.log.append("ended" if ended() else "work")


def test_work_follows_each_block_before_the_next_piece_is_asked_for():
    pieces = [Piece(system, "s", (block,), block) for block in (0, 1, 4) for system in ("a", "b")]
    log: list[str] = []
    for piece in interleave(pieces, Noted(log), lambda: False):
        log.append(f"{piece.system}{piece.block}")
    assert log == ["a0", "b0", "work", "a1", "b1", "work", "a4", "b4", "work"]


def test_work_learns_that_the_run_ends():
    log: list[str] = []
    list(interleave([Piece("a", "s", (0,), 0)], Noted(log), lambda: True))
    assert log == ["ended"]


def test_a_schedule_without_pieces_has_no_work():
    log: list[str] = []
    assert list(interleave([], Noted(log), lambda: False)) == []
    assert log == []
