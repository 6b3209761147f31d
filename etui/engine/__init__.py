"""llama.cpp: model, context, batched sequences, chat template, residency, child process."""
