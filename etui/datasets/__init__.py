"""Questions: MMLU and other suites, the shipped sample, CSV, JSON Lines and Parquet files."""
