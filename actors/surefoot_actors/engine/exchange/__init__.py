"""A round's merge between trainers: what is sent to whom, the sums in tree order, and state for those that lack it."""
