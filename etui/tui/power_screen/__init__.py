"""The power screen: every channel, and what has been spent."""
