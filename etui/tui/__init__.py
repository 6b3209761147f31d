"""The terminal app, on Textual: screens, widgets, messages, one style sheet."""
