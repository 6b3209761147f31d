"""The power panel of the chat screen."""
