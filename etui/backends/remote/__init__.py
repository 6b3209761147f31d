"""Remote backends: servers on this or another machine that answer over HTTP."""
