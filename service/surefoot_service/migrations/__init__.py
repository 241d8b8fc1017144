"""The tables' history, one file a change, applied at start-up."""
