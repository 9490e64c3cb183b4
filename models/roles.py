"""The parts that trained networks play in a chain, under the names that presets and options use."""

ROLES = ("pre_upsampler", "auxiliary", "autoencoder", "denoiser", "noise_predictor")
