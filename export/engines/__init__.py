"""Engines for NVIDIA GPUs: building, keeping, comparing."""
