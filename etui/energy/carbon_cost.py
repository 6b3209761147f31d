"""Carbon and cost: plain multiplication with the factors that the user states, and only those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from etui.config.config import Config

JOULES_PER_KWH = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Factors:
    """What a kilowatt-hour stands for; None is not stated.

    Attributes:
        carbon_g_per_kwh: Grams of CO2 equivalent.
        price_per_kwh: Price in ``currency``.
        currency: Its name or sign.
    """

    carbon_g_per_kwh: float | None = None
    price_per_kwh: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True)
class CarbonCost:
    """An energy in the user's factors; None where no factor was stated."""

    kilowatt_hours: float
    grams_co2e: float | None
    price: float | None
    currency: str


def factors_of(config: Config) -> Factors | None:
    """The factors in the config; None when none is stated."""
    if config.carbon_g_per_kwh is None and config.price_per_kwh is None:
        return None
    return Factors(config.carbon_g_per_kwh, config.price_per_kwh, config.currency)


def cost_of(joules: float | None, factors: Factors) -> CarbonCost | None:
    """What an energy costs; None when it was not measured."""
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
    """What the user's factors make of an energy; only what a factor was stated for."""

    kilowatt_hours: float
    grams_co2e: NotRequired[float]
    price: NotRequired[float]
    currency: NotRequired[str]


def cost_document(cost: CarbonCost) -> CostDocument:
    """Make the document of a cost."""
    found: CostDocument = {"kilowatt_hours": cost.kilowatt_hours}
    if cost.grams_co2e is not None:
        found["grams_co2e"] = cost.grams_co2e
    if cost.price is not None:
        found["price"] = cost.price
        found["currency"] = cost.currency
    return found
