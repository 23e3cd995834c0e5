"""A profile's cells, the stages of each, and where their results lie."""
