"""etui on this machine: opens everything, decides, answers."""
