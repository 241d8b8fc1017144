"""What follows from what happened: states, attempts, retries."""
