"""The report of a design run: a page, Markdown, tables and figures."""
