"""The model catalogue, model files on disk, downloads and GGUF headers."""
