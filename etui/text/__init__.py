"""Safe text, tables, suggestions and times: the lowest room that prints."""
