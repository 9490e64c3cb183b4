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
# A line on each preset; `lpnsr.models.presets` has its networks and weights.
SUMMARIES = {
    "lpnsr": "4 steps with predicted noise",
    "resshift": "4 steps",
    "resshift-15": "15 steps",
    "sinsr": "ResShift distilled to 1 step",
    "upsr": "5 steps on pixels, uncertainty-weighted noise",
    "upsr-light": "4 steps; weights not published",
    "dmsr": "1 step or more of SD-Turbo; weights not published",
    "real-esrgan": "Real-ESRGAN x4plus, to compare with: no steps",
    "lpnsr-tiny": "the runtime's built-in model; its weights are here",
}
