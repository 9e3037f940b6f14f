"""Named runs as functions that return complete configs."""
