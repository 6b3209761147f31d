"""Backends that answer requests: llama.cpp in this process, or in a child process."""
