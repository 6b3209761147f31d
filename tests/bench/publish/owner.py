"""The machine of synthetic public runs, and an owner without private data."""

from __future__ import annotations

from etui.bench.publish import PrivateData

MACHINE = {"name": "A processor, 8 CPUs, Linux x86_64", "memory_bytes": 8 << 30}
NO_OWNER = PrivateData((), ())
