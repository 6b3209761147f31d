"""MMLU and its like on local models: data, prompt formats, scoring, runs, statistics, reports."""
