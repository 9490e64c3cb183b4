"""Scripts that print every figure the project states."""
