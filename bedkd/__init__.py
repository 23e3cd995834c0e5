"""BeDKD: clean a text classifier that was trained on poisoned data (arXiv 2508.01595)."""

__version__ = "0.1.0"
