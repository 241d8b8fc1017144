"""What the user's code meets: the loop over steps, its rounds, and the rules that they keep."""
