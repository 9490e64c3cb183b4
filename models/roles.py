"""The names that presets and options use: parts of a chain, and what can stand in for them."""

# Roles of trained networks whose checkpoints have an option of their own on the command line; those
# of other families come from the folder of --weights.
ROLES = (
    "pre_upsampler",
    "auxiliary",
    "autoencoder",
    "denoiser",
    "noise_predictor",
    "timestep_estimator",
    "encoder",
    "decoder",
    "text_encoder",
)
# Where a chain starts from: the bicubic picture or the pre-upsampler's.
STARTS = ("bicubic", "swinir")
# What a step adds: a sample of the noise predictor's distribution, the draw itself, or nothing.
NOISE_KINDS = ("predicted", "gaussian", "zero")
# What the networks of a graph compute in; in mixed precision each has its own type.
PRECISIONS = ("fp32", "fp16", "bf16", "mixed")
