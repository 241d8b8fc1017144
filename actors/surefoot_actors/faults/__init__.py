"""Faults at an exact point, for tests and chaos."""
