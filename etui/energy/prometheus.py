"""The meter's values as Prometheus metrics, through the optional package prometheus-client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etui.energy.recorder import Recorder
from etui.errors import EtuiError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_LABELS = ["channel", "scope", "kind", "in_total"]


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
    """Build a registry that holds only the recorder's metrics.

    Raises:
        EtuiError: prometheus-client is not installed.
    """
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
    """Return the metrics in Prometheus' text format.

    Raises:
        EtuiError: prometheus-client is not installed.
    """
    registry = build_registry(recorder)
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()
