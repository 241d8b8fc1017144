"""What a trainer uses of its machine, and how its time is spent: measured beside it, by its watchdog. Standard library only."""
