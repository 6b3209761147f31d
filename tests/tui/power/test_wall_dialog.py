"""Setting up a wall meter in the app: live watts, and a saved entry that keeps comments."""

from __future__ import annotations

from dataclasses import replace

import httpx2

from etui.config.config import Config, apply_settings
from etui.energy.devices import join_states
from etui.energy.recorder import Recorder
from etui.energy.sources.wall import WallSource
from etui.tui.open_services import LiveMeter
from etui.tui.power._wall_dialog import WallMeterModal
from etui.tui.power.channel_rows import name_channels
from etui.tui.power.screen import PowerScreen, PowerTopApp
from tests.support.plugs import PLUGS, SECOND, Plug, serve_plug
from tests.tui.fakes import FakeMeter, until


def state(modal: WallMeterModal) -> str:
    return str(modal._state.content)


async def test_a_meter_is_read_live_and_saved_with_the_comments_kept(config: Config) -> None:
    config.config_file.write_text("# mine\npolicy: balanced  # as it was\n")
    plug = Plug()
    app = PowerTopApp(config, FakeMeter(), 0.1)
    with serve_plug(plug) as url:
        async with app.run_test(size=(100, 36)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, PowerScreen))
            await pilot.press("w")
            await until(pilot, lambda: isinstance(app.screen, WallMeterModal))
            modal = app.screen
            assert isinstance(modal, WallMeterModal)
            await pilot.press(*"desk", "tab", *url.replace("127.0.0.1", "127.0.0.2"))
            await pilot.press("ctrl+y")
            modal._inputs["url"].value = url
            await pilot.pause()
            await pilot.press("ctrl+y")
            await until(pilot, lambda: "100 W" in state(modal))
            await pilot.press("ctrl+s")
            await until(pilot, lambda: isinstance(app.screen, PowerScreen))
    text = config.config_file.read_text()
    assert text.startswith("# mine\npolicy: balanced  # as it was\n")
    saved = apply_settings(Config(config.home, config.models_dir)).wall_meters["desk"]
    assert (saved.type, saved.url, saved.output) == ("shelly", url, 0)


async def test_a_wrong_field_is_named_and_nothing_is_saved(config: Config) -> None:
    app = PowerTopApp(config, FakeMeter(), 0.1)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, PowerScreen))
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, WallMeterModal))
        modal = app.screen
        assert isinstance(modal, WallMeterModal)
        await pilot.press(*"desk", "tab", *"ftp://x", "ctrl+s")
        await until(pilot, lambda: "must begin with http" in state(modal))
        await pilot.press("escape")
    assert not config.config_file.exists()


async def test_the_app_lives_with_every_plug_that_is_faulty(config: Config) -> None:
    sources = []
    for number, each in enumerate(PLUGS.values()):
        plug = replace(each, now_ns=each.begin_ns + 90 * SECOND)  # in the middle of its fault
        spec = plug.spec(name=f"p{number}")
        sources.append(WallSource(spec, transport=httpx2.MockTransport(plug.handle)))
    with Recorder(sources) as recorder:
        app = PowerTopApp(config, LiveMeter(recorder, config), 0.1)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, PowerScreen))
            await until(pilot, lambda: all(s.problem != "not read yet" for s in sources))
            await pilot.press("j", "j", "tab", "r")
            assert isinstance(app.screen, PowerScreen)
    assert app.fault is None


def test_several_wall_meters_have_their_own_names() -> None:
    with_names = [Recorder([Plug().source(name=name) for name in names]) for names in
                  (("desk",), ("desk", "rack"))]  # fmt: skip
    found = [name_channels(join_states(each.latest(), (), {})) for each in with_names]
    assert found == [["wall"], ["desk", "rack"]]
