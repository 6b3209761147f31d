"""The policy file as pydantic models, one module a section."""
