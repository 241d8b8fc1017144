"""Trackers: what a job has logged, brought to where people look at curves, once, from its ledger."""

from surefoot.trackers.tracking import Tracked, open_tracker, track

__all__ = ["Tracked", "open_tracker", "track"]
