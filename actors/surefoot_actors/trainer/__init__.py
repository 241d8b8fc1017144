"""A trainer's process: the training thread, the data plane, and its line to the supervisor."""
