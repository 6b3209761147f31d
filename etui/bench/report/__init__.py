"""Reports of runs: HTML, Markdown, CSV, figures, lm-eval."""
