"""`run_local`: the train function in this process."""
