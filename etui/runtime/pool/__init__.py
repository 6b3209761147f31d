"""Run the turns of many clients at a time."""
