"""Compares what is stored with the cluster, and mends."""
