"""The energy meter: power sources, the recorder, the energy of an interval."""
