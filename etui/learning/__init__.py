"""What predicts whether an arm is right: graded answers, fits of them, audits and replays."""
