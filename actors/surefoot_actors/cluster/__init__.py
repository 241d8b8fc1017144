"""Where trainers live, as the supervisor sees it."""
