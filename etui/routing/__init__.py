"""Policy files -> a Decision: which arm answers, and why. Pure Python."""
