"""Folders and user settings of etui on this machine."""
