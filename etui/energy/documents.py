"""The meter's values for other programs: JSON, carbon and cost, Prometheus metrics.

The key names are part of the contract. Carbon and cost are energy times the factors that the user
states, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

from etui.config.config import Config
from etui.energy.types import ChannelEnergy, Kind
from etui.errors import EtuiError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from etui.energy.recorder import Recorder

_LABELS = ["channel", "scope", "kind", "in_total"]
JOULES_PER_KWH = 3_600_000.0


class EnergyFacts(Protocol):
    """Values that the energy of an interval and the energy of a turn have in common."""

    @property
    def joules(self) -> float | None:
        """Gross joules; None when nothing was measured."""

    @property
    def uncertainty(self) -> float | None:
        """Half width of ``joules`` at 95 %."""

    @property
    def net_joules(self) -> float | None:
        """Joules above idle; None without a baseline."""

    @property
    def idle_watts(self) -> float | None:
        """Idle watts of the total; None without a baseline."""

    @property
    def kind(self) -> str | None:
        """The weakest kind in the sum."""

    @property
    def coverage(self) -> float:
        """Share of the time that was recorded, 0..1."""

    @property
    def mean_watts(self) -> float | None:
        """Mean watts of the total."""

    @property
    def peak_watts(self) -> float | None:
        """Largest watts of the total."""

    @property
    def channels(self) -> Mapping[str, float] | tuple[ChannelEnergy, ...]:
        """Joules by channel id, or the energies of the channels."""

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Scopes without a reading."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Notes on the measurement (``coarse``, ``gap``, ...)."""

    @property
    def shared(self) -> bool:
        """Whether other processes used a GPU of the sum, or the CPUs of an estimate."""

    @property
    def own_joules(self) -> float | None:
        """Joules of etui's own processes on shared hardware; None when not known."""

    @property
    def start_ns(self) -> int:
        """Start on the monotonic clock, nanoseconds."""

    @property
    def end_ns(self) -> int:
        """End on the monotonic clock, nanoseconds."""


def energy_document(
    energy: EnergyFacts, of_turn: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return an energy as the ``energy`` object of ``etui ask --json``.

    The keys that only a turn has follow the watts.
    """
    channels = energy.channels
    return {
        "joules": energy.joules,
        "uncertainty": energy.uncertainty,
        "net_joules": energy.net_joules,
        "idle_watts": energy.idle_watts,
        "kind": None if energy.kind is None else str(energy.kind),
        "coverage": energy.coverage,
        "mean_watts": energy.mean_watts,
        "peak_watts": energy.peak_watts,
        **of_turn,
        "channels": channels
        if isinstance(channels, Mapping)
        else {part.id: part.joules for part in channels},
        "unmeasured": list(energy.unmeasured),
        "flags": list(energy.flags),
        "shared": energy.shared,
        "own_joules": energy.own_joules,
        "start_ns": energy.start_ns,
        "end_ns": energy.end_ns,
    }


@dataclass(frozen=True, slots=True)
class Factors:
    """Factors for one kilowatt-hour; None where the user states none."""

    carbon_g_per_kwh: float | None = None  # Grams of CO2 equivalent
    price_per_kwh: float | None = None  # Price in `currency`
    currency: str = ""


@dataclass(frozen=True, slots=True)
class CarbonCost:
    """Carbon and cost of an energy; None where the user states no factor."""

    kilowatt_hours: float
    grams_co2e: float | None
    price: float | None
    currency: str


def read_factors(config: Config) -> Factors | None:
    """Return the factors in the config; None when it states none."""
    if config.carbon_g_per_kwh is None and config.price_per_kwh is None:
        return None
    return Factors(config.carbon_g_per_kwh, config.price_per_kwh, config.currency)


def compute_cost(joules: float | None, factors: Factors) -> CarbonCost | None:
    """Return the carbon and cost of an energy; None when it was not measured."""
    if joules is None:
        return None
    energy = joules / JOULES_PER_KWH
    carbon, price = factors.carbon_g_per_kwh, factors.price_per_kwh
    return CarbonCost(
        energy,
        None if carbon is None else energy * carbon,
        None if price is None else energy * price,
        factors.currency,
    )


class CostDocument(TypedDict):
    """Carbon and cost of an energy as JSON; a key without a stated factor is absent."""

    kilowatt_hours: float
    grams_co2e: NotRequired[float]
    price: NotRequired[float]
    currency: NotRequired[str]


def build_cost_document(cost: CarbonCost) -> CostDocument:
    """Build the JSON document of a cost."""
    found: CostDocument = {"kilowatt_hours": cost.kilowatt_hours}
    if cost.grams_co2e is not None:
        found["grams_co2e"] = cost.grams_co2e
    if cost.price is not None:
        found["price"] = cost.price
        found["currency"] = cost.currency
    return found


class _Part(TypedDict):
    """Measurements of a channel in the interval; the watts are absent where there are none."""

    kind: str
    joules: float | None
    uncertainty: float | None
    coverage: float
    mean_watts: NotRequired[float]
    peak_watts: NotRequired[float | None]
    flags: list[str]


class ChannelDocument(_Part):
    """One channel with its measurements in the interval."""

    id: str
    scope: str
    label: str
    in_total: bool
    limit_watts: float | None
    watts: float | None
    joules_since_start: float | None
    period_seconds: float | None


class PowerDocument(TypedDict):
    """A document of ``etui power --json``; ``cost`` is present when the user states a factor."""

    seconds: float
    energy: dict[str, Any]
    channels: list[ChannelDocument]
    cost: NotRequired[CostDocument]


def power_document(
    recorder: Recorder, start_ns: int, end_ns: int, factors: Factors | None = None
) -> PowerDocument:
    """Build a document of ``etui power --json``: the total, and every channel with its details."""
    energy = recorder.energy(start_ns, end_ns)
    parts = {part.id: part for part in (*energy.channels, *energy.cross_checks)}
    document: PowerDocument = {
        "seconds": energy.seconds,
        "energy": energy_document(energy),
        "channels": [
            {
                "id": row.channel.id,
                "scope": row.channel.scope,
                "label": row.channel.label,
                "kind": row.channel.kind.value,
                "in_total": row.in_total,
                "limit_watts": row.channel.limit_watts,
                "watts": row.watts,
                "joules_since_start": row.joules_since_start,
                "period_seconds": recorder.period_s(row.channel.id),
                **_part(parts.get(row.channel.id), row.channel.kind),
            }
            for row in recorder.latest()
        ],
    }
    cost = compute_cost(energy.joules, factors) if factors else None
    if cost is not None:
        document["cost"] = build_cost_document(cost)
    return document


def _part(part: ChannelEnergy | None, kind: Kind) -> _Part:
    if part is None:
        return {
            "kind": kind.value,
            "joules": None,
            "uncertainty": None,
            "coverage": 0.0,
            "flags": ["unmeasured"],
        }
    return {
        "kind": part.kind.value,  # integrated where the channel's counter stopped
        "joules": part.joules,
        "uncertainty": part.uncertainty,
        "coverage": part.coverage,
        "mean_watts": part.mean_watts,
        "peak_watts": part.peak_watts,
        "flags": list(part.flags),
    }


class PowerCollector:
    """Gives Prometheus the newest values of a recorder at each scrape.

    ``etui_energy_joules_total`` counts joules since etui started; ``etui_power_watts`` is the
    newest power. A channel without a reading has no sample, never a 0.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def collect(self) -> list[Any]:
        """Return the current metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        joules = CounterMetricFamily(
            "etui_energy_joules", "Joules of a channel since etui started.", labels=_LABELS
        )
        watts = GaugeMetricFamily("etui_power_watts", "Power of a channel now.", labels=_LABELS)
        for row in self._recorder.latest():
            total = "true" if row.in_total else "false"
            labels = [row.channel.id, row.channel.scope, row.channel.kind.value, total]
            if row.joules_since_start is not None:
                joules.add_metric(labels, max(row.joules_since_start, 0.0))
            if row.watts is not None:
                watts.add_metric(labels, row.watts)
        missing = GaugeMetricFamily(
            "etui_unmeasured", "A scope of this machine without a reading.", labels=["scope"]
        )
        for scope in self._recorder.unmeasured:
            missing.add_metric([scope], 1)
        return [joules, watts, missing]


def build_registry(recorder: Recorder) -> CollectorRegistry:
    """Build a registry of the recorder's metrics alone; EtuiError without prometheus-client."""
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise EtuiError(
            "the package prometheus-client is not installed", "pip install 'etui[prometheus]'"
        ) from error
    registry = CollectorRegistry()
    registry.register(PowerCollector(recorder))  # type: ignore[arg-type,unused-ignore]
    return registry


def format_metrics(recorder: Recorder) -> str:
    """Return the metrics in Prometheus' text format; EtuiError without prometheus-client."""
    registry = build_registry(recorder)
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()
