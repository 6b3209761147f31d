"""The meter: power channels, the recorder, and joules of an interval."""
