"""etui on this machine: what every front end starts from, to decide and to answer."""
