"""What Ray starts: the launcher, the supervisor's actor, the clean-up."""
