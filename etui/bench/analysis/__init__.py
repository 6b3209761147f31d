"""What the answers of a run amount to: figures that need no model and no meter."""
