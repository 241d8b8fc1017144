"""What a request passes before a route sees it: connections, tokens, bodies, and what the service says of its own health."""
