"""From a policy file to a decision, without side effects."""
