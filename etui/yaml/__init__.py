"""YAML files validated by pydantic, with errors as file:line:column."""
