"""llama.cpp in this process, through its low-level API."""
