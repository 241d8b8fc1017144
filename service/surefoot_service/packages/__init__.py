"""Users' code: archives, and the train function in them."""
