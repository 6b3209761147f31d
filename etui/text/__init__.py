"""Texts for a terminal: made safe, aligned in tables, with suggestions and times."""
