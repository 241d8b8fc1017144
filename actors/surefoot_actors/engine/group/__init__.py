"""The process group of a generation: sockets between its members."""
