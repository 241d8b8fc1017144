"""How batches are made: in which order samples come, who loads them, and what memory they are handed out in."""
