"""The runs screen of the app."""
