"""Operating curves: joules of a turn of a model as a function of its number of tokens."""
