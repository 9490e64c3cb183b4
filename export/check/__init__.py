"""Whether a graph computes what the eager chain does."""
