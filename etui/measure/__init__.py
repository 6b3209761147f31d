"""The pipeline of every experiment: cells, order, folder, progress and page."""
