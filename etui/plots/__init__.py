"""Charts in characters, and the shared style of matplotlib figures."""
