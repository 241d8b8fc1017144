"""A job's data on this node: listed, copied once for all trainers, and kept as long as it is used and there is room."""
