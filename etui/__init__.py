"""etui answers questions with local language models and shows the joules of every answer."""

__version__ = "0.1.0"
