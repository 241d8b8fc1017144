"""The supervisor: it owns membership, and everything it tells and is told."""
