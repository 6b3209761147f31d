"""The power panel beside the chat."""
