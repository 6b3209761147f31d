"""Carbon and cost: multiply energy by the factors that the user states, and by no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from etui.config.config import Config

JOULES_PER_KWH = 3_600_000.0


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
