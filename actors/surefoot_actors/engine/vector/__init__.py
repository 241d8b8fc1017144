"""Leaves and merged vectors: how gradients and buffers are laid out, cut into buckets and folded."""
