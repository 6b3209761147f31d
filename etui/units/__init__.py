"""Quantities as text: the only place that decides digits, unit and kind of a number.

Three rules hold everywhere. A quantity that was not measured is written ``unmeasured``, never 0. An
estimate is marked: ``≈12 J (estimate)``, or ``≈12 J`` where a heading, a badge or a row says the
word once. The uncertainty decides the digits: it is rounded
to two significant digits (a trailing zero is omitted), and the value is rounded to the same decimal
place, as recommended by the Guide to the Expression of Uncertainty in Measurement (JCGM 100:2008,
7.2.6).
"""

from __future__ import annotations

from etui.units.differences import UNKNOWN as UNKNOWN
from etui.units.differences import accuracy_text as accuracy_text
from etui.units.differences import change_text as change_text
from etui.units.differences import difference_text as difference_text
from etui.units.differences import margin_text as margin_text
from etui.units.differences import multiple_text as multiple_text
from etui.units.differences import p_value_text as p_value_text
from etui.units.differences import points_change_text as points_change_text
from etui.units.differences import points_text as points_text
from etui.units.durations import age_text as age_text
from etui.units.durations import offset_text as offset_text
from etui.units.durations import seconds_text as seconds_text
from etui.units.durations import span_text as span_text
from etui.units.quantities import ABOUT as ABOUT
from etui.units.quantities import ESTIMATE as ESTIMATE
from etui.units.quantities import JOULES_PER_WATT_HOUR as JOULES_PER_WATT_HOUR
from etui.units.quantities import NOT_ABOVE_IDLE as NOT_ABOVE_IDLE
from etui.units.quantities import UNMEASURED as UNMEASURED
from etui.units.quantities import axis_text as axis_text
from etui.units.quantities import bytes_text as bytes_text
from etui.units.quantities import celsius_text as celsius_text
from etui.units.quantities import clock_text as clock_text
from etui.units.quantities import cost_text as cost_text
from etui.units.quantities import count_text as count_text
from etui.units.quantities import energy_range_text as energy_range_text
from etui.units.quantities import energy_text as energy_text
from etui.units.quantities import limit_text as limit_text
from etui.units.quantities import marked as marked
from etui.units.quantities import memory_text as memory_text
from etui.units.quantities import net_text as net_text
from etui.units.quantities import of_limit_text as of_limit_text
from etui.units.quantities import per_text as per_text
from etui.units.quantities import per_token_text as per_token_text
from etui.units.quantities import percent_text as percent_text
from etui.units.quantities import place_text as place_text
from etui.units.quantities import price_text as price_text
from etui.units.quantities import rate_text as rate_text
from etui.units.quantities import several_text as several_text
from etui.units.quantities import short_count_text as short_count_text
from etui.units.quantities import short_energy_text as short_energy_text
from etui.units.quantities import short_per_token_text as short_per_token_text
from etui.units.quantities import short_rate_text as short_rate_text
from etui.units.quantities import short_tokens_text as short_tokens_text
from etui.units.quantities import short_watts_text as short_watts_text
from etui.units.quantities import times_text as times_text
from etui.units.quantities import tok_text as tok_text
from etui.units.quantities import tokens_text as tokens_text
from etui.units.quantities import total_text as total_text
from etui.units.quantities import watt_hours_text as watt_hours_text
from etui.units.quantities import watts_of_text as watts_of_text
from etui.units.quantities import watts_text as watts_text
from etui.units.quantities import whole_percent_text as whole_percent_text
from etui.units.rounding import significant as significant
from etui.units.rounding import with_uncertainty as with_uncertainty
