"""What the defender may see, the truth, and the numbers that compare the two."""
