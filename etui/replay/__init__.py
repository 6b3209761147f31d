"""Replays policies and routers over answers that are already there (``etui policy replay``)."""
