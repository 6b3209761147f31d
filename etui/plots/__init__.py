"""Charts in characters, and the shared style of the matplotlib figures."""
