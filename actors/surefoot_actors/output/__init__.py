"""Files that training writes: the folder on the trainer's node, and what of it is kept in the job's place."""
