"""Start of the app, and its errors once the terminal is restored."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from etui.config.config import Config, make_home
from etui.errors import EtuiError
from etui.log.records import ChatRecord
from etui.runtime.route import Route
from etui.tui.app import EtuiApp
from etui.tui.exit_signals import leave_on_hangup
from etui.tui.services import Services


def run_app(
    config: Config,
    *,
    policy: str | None = None,
    model: str | None = None,
    notices: Sequence[str] = (),
    chat: ChatRecord | None = None,
) -> int:
    """Open the chat and run until the user leaves.

    Args:
        policy: Policy that routes; None for the configured one.
        model: Model that answers regardless of the policy; None for the configured one.
        notices: What to show at the start, such as a restored power limit.
        chat: Earlier chat to open; None for a new one.

    Returns:
        The exit code.

    Raises:
        EtuiError: etui's folders cannot be written to, or the app failed.
    """
    make_home(config)
    route = Route(policy or config.policy, model or config.model)
    app = EtuiApp(config, route, _open_services, notices, chat)
    leave_on_hangup(app.save_and_close)
    app.run()
    if isinstance(app.fault, EtuiError):
        raise app.fault
    if app.fault is not None:
        raise EtuiError(
            f"internal error in the app: {type(app.fault).__name__}: {app.fault}",
            "start etui again; `etui --debug` shows the traceback",
        ) from app.fault
    return app.return_code or 0


def _open_services(config: Config) -> Services:
    from etui.tui.open_services import open_services  # meter and log: 50 ms after the first paint

    services = open_services(config)
    import_module("etui.tui.widgets.answer_markdown")  # here, and not when the first answer begins
    return services
