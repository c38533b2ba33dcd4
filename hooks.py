"""Server hooks."""
