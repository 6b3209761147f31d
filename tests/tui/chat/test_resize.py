"""A terminal that changes its size leaves no blank rows in the chat."""

from __future__ import annotations

from etui.tui.start import EtuiApp
from tests.tui.fakes import House, turn_record, until
from tests.tui.screen import turns

LONG = "a question of many words that needs several rows where the terminal is narrow " * 2
SIZES = [(40, 10), (80, 24), (200, 60), (41, 12), (120, 36)]


def heights(app: EtuiApp) -> list[tuple[str, int]]:
    """The parts of each turn; the price line is left out, which is broken once it is in view."""
    return [
        (" ".join(sorted(part.classes)), part.region.height)
        for turn in turns(app)
        for part in turn.children
        if part.display and not part.has_class("energy-row")
    ]


async def show(house: House, pilot: object, app: EtuiApp) -> None:
    await until(pilot, lambda: len(turns(app)) == 2)  # type: ignore[arg-type]
    await until(pilot, lambda: all(height for _name, height in heights(app)))  # type: ignore[arg-type]


async def test_a_resized_chat_is_as_high_as_one_that_began_so(house: House) -> None:
    records = [turn_record(n, query=LONG, answer=LONG, why=LONG[:60]) for n in (1, 2)]
    house.chats.keep("Long", records)
    chat = house.chats.kept["chat-1"][0]

    def build() -> EtuiApp:
        app = house.app()
        app._to_open = chat
        return app

    expected = {}
    for size in SIZES:
        fresh = build()
        async with fresh.run_test(size=size) as pilot:
            await show(house, pilot, fresh)
            await pilot.pause()
            expected[size] = heights(fresh)
    resized = build()
    async with resized.run_test(size=(120, 36)) as pilot:
        await show(house, pilot, resized)
        for size in (*SIZES, *reversed(SIZES)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: resized.screen.size == size)
            await until(pilot, lambda size=size: heights(resized) == expected[size])
