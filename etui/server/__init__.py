"""The OpenAI-compatible server of ``etui serve``."""
