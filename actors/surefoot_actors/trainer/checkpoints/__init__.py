"""A trainer's part in checkpoints."""
