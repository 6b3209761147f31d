"""Power limits of GPUs and CPU packages: read, set, verified, and always restored."""
