"""The text encoder of Stable Diffusion 2: OpenCLIP's ViT-H tower without its last layer.

It is run on one prompt, once, at export; its keys are those of `CLIPTextModel`.

Sources: Radford et al., CLIP (2021); Cherti et al., OpenCLIP (2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.models.diffusion_blocks import attend

# "High-quality, high-contrast, photo-realistic, clean, sharp, highly-detailed, perfect, 8k, ultra
# HD" between the tokens of start and end, as CLIP's tokenizer has it; the rest is filled with 0.
PROMPT = (
    *(49406, 1400, 268, 3027, 267, 1400, 268, 18501, 267, 1125, 268, 16157, 267, 3772, 267, 8157),
    *(267, 5302, 268, 12609, 267, 1878, 267, 279, 330, 267, 8118, 4414, 49407),
)
"""Token ids of the prompt of DM-SR (ICLR 2026), footnote 1."""
EPS = 1e-5


@dataclass(frozen=True)
class TextTowerConfig:
    """Sizes of the tower; the defaults are those of SD-Turbo.

    Attributes:
        channels: width of a token.
        layers: transformer blocks.
        heads: of each attention.
        vocabulary: number of different tokens.
        length: tokens of a prompt, filled up with token 0.
        prompt: token ids.
    """

    channels: int = 1024
    layers: int = 23
    heads: int = 16
    vocabulary: int = 49408
    length: int = 77
    prompt: tuple[int, ...] = PROMPT


class SelfAttention(nn.Module):
    """Multi-head attention in which each token sees itself and those before it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(channels, channels) for _ in range(4)
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, N, C), additive mask (N, N) -> (B, N, C)."""
        query, key, value = self.q_proj(tokens), self.k_proj(tokens), self.v_proj(tokens)
        return self.out_proj(attend(query, key, value, self.heads, mask))


class Layer(nn.Module):
    """Attention and two linear layers, each with a norm before it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(channels, EPS)
        self.self_attn = SelfAttention(channels, heads)
        self.layer_norm2 = nn.LayerNorm(channels, EPS)
        layers = {
            "fc1": nn.Linear(channels, 4 * channels),
            "fc2": nn.Linear(4 * channels, channels),
        }
        self.mlp = nn.ModuleDict(layers)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tokens = tokens + self.self_attn(self.layer_norm1(tokens), mask)
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.layer_norm2(tokens))))


class TextTower(nn.Module):
    """Embeds its prompt."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        embeddings = {
            "token_embedding": nn.Embedding(config.vocabulary, config.channels),
            "position_embedding": nn.Embedding(config.length, config.channels),
        }
        layers = (Layer(config.channels, config.heads) for _ in range(config.layers))
        self.text_model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(embeddings),
                "encoder": nn.ModuleDict({"layers": nn.ModuleList(layers)}),
                "final_layer_norm": nn.LayerNorm(config.channels, EPS),
            }
        )

    @staticmethod
    def own(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file without what follows from the sizes."""
        return {k: v for k, v in weights.items() if not k.endswith("position_ids")}

    def forward(self) -> Tensor:
        """The prompt's embedding, (1, length, channels)."""
        length = self.config.length
        # What a container holds has no type.
        embeddings = cast(nn.ModuleDict, self.text_model["embeddings"])
        encoder = cast(nn.ModuleDict, self.text_model["encoder"])
        positions = embeddings["position_embedding"].get_parameter("weight")
        ids = torch.zeros(length, dtype=torch.int64, device=positions.device)
        ids[: len(self.config.prompt)] = torch.tensor(self.config.prompt)
        tokens = (embeddings["token_embedding"](ids) + positions)[None]
        mask = torch.full((length, length), float("-inf"), device=positions.device).triu(1)
        for layer in cast(nn.ModuleList, encoder["layers"]):
            tokens = layer(tokens, mask)
        return self.text_model["final_layer_norm"](tokens)
