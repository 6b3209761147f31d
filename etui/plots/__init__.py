"""Charts in characters, and the style of the figures that matplotlib draws."""
