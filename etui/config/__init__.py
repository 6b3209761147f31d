"""Folders and settings of etui on this machine."""
