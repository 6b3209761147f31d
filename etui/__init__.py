"""etui: local language models answer, and every answer shows what it cost in joules."""

__version__ = "0.1.0"
