"""llama.cpp in this process, called through its low-level API."""
