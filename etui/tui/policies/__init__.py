"""The policies screen."""
