"""What one channel recorded, and its energy over an interval."""
