"""How an arm answers: direct, chain of thought, majority vote."""
