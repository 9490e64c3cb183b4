"""The networks, the diffusion schedule and the eager reverse chain, in PyTorch."""
