"""Data sets, the defender's clean rows, and the attacks."""
