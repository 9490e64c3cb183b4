"""Cutting pictures into tiles and joining what was made of them."""
