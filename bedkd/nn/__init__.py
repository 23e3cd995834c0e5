"""Models and their training loop; knows nothing of backdoors."""
