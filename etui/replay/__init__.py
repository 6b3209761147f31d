"""Replay of policies and routers over existing answers."""
