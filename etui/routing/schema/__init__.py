"""The policy file as pydantic models, one module per section."""
