"""Cutting pictures into tiles and joining the upscaled tiles."""
