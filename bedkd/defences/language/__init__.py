"""ONION's score of each word, from a causal language model's perplexities."""
