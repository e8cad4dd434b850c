"""What off-policy agents remember: a replay ring, uniform or prioritised."""
