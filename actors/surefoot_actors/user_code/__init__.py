"""How the user's code is found, imported and spoken about in a trainer. Nothing here imports torch but `finder`'s random streams."""
