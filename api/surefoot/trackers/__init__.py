"""Trackers: what a job has logged, brought to where people look at curves, once, from its ledger."""
