"""Safe terminal text, tables, suggestions and timestamps."""
