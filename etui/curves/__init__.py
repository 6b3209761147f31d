"""Operating curves: joules of a model's tokens as a function of their number."""
