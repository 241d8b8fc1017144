"""Which job runs, and with how many trainers."""
