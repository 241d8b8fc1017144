"""Whether trainers live: the failure detector, and the watchdog process beside each trainer."""
