"""What a question is made of besides what is typed: saved prompts, and files."""
