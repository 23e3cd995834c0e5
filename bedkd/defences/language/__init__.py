"""ONION's causal language model, and its score of each word."""
