"""Join the folders of one plan into one run: parts of it, other machines, other days."""
