"""SQLite through sqlite-utils: migrations, writer, queries, export."""
