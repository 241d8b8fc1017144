"""Checkpoints as the control plane sees them: their places, the model in them, their removal."""
