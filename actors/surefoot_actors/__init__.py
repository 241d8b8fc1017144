"""What runs on Ray: launcher, supervisor, trainer, and the engine under them."""
