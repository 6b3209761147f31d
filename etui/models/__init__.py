"""The catalogue of models, their files on disk, downloads and GGUF headers."""
