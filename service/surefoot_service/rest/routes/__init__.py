"""REST, version 1. Routes only parse, authorize and call."""
