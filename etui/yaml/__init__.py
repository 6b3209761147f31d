"""YAML with positions: parsed, validated by pydantic, faults as file:line:column."""
