"""Ray, by its REST API; a local head."""
