"""What the routes of the server work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.engine.token_counter import TokenCounter
    from etui.runtime.overrides import Overrides
    from etui.runtime.runtime import Runtime
    from etui.runtime.turn_pool import TurnPool
    from etui.server.metrics import TurnCounters

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8420


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server listens on, whom it answers, and its limits.

    Attributes:
        policy, model: What answers requests for the model ``default``, or for none; None of
            both is the policy of config.yaml.
        header_seconds, body_seconds: Longest time for the headers and for the body to arrive.
    """

    host: str = DEFAULT_HOST  # Address that it is bound to
    port: int = DEFAULT_PORT  # Its port, as clients name it in `Host`
    unix: str | None = None
    """Path of a unix socket that it listens on instead of an address; None for none."""
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Keys by their names; without any, requests need no key."""
    admins: frozenset[str] = frozenset()  # Names of the keys that see the figures of all keys
    origins: tuple[str, ...] = ()
    """Origins of web pages that may send requests (``https://chat.example``)."""
    allow_hosts: tuple[str, ...] = ()
    """Further values of ``Host``, such as the name of a reverse proxy. One without a port means
    this server's port and the default ports of HTTP and HTTPS."""
    policy: str | None = None
    model: str | None = None
    body_limit_bytes: int = 8 * 2**20  # Largest body of a request
    bodies_limit_bytes: int = 64 * 2**20
    """Most bytes of all bodies at a time; see :class:`etui.server.bodies.BodyBudget` for keys."""
    header_limit_bytes: int = 32 * 2**10  # Largest size of the headers of a request, all together
    header_count: int = 100  # Most headers of a request
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    stall_seconds: float = 30.0  # Longest time that a client may leave a full socket unread
    keep_alive_seconds: float = 5.0  # A stream sends a comment after this long a silence
    grace_seconds: float = 10.0
    """How long running answers may go on after the server was asked to stop."""
    event_limit: int = 4096  # Most events that wait for one client
    max_connections: int = 512  # Most connections at a time

    def sees_all(self, key: str) -> bool:
        """Return whether a client may see the figures of all keys; one alone has no others."""
        return len(self.keys) <= 1 or key in self.admins


def _open_counters() -> TurnCounters:
    from etui.server.metrics import TurnCounters

    return TurnCounters()


def _open_token_counter() -> TokenCounter:
    from etui.engine.token_counter import TokenCounter

    return TokenCounter()


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What every route is built with."""

    pool: TurnPool  # Runs the turns
    runtime: Runtime[Any]
    settings: ServerSettings
    parse_model: Callable[[str], Overrides] | None = None
    """Turns the id of a model into overrides; None reads the machine's policies and models
    (:func:`etui.runtime.model_ids.parse_model_id`)."""
    counters: TurnCounters = field(default_factory=_open_counters)
    tokens: TokenCounter = field(default_factory=_open_token_counter)
    """Counts tokens without the engine; closed with the server."""
