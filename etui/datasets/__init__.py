"""Multiple-choice questions: MMLU, the shipped sample, CSV files."""
