"""The SQLite log of turns, chats, loads, runs and curves."""
