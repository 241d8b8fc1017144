"""What decides bits besides code and data: random streams, and how the process computes."""
