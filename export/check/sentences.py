"""Figures of a verification in words."""

from __future__ import annotations

import math
from collections.abc import Mapping


def sentence(parity: Mapping[str, float]) -> str:
    """What was measured of a graph against eager PyTorch, of a stage, or of an engine.

    Args:
        parity: from `lpnsr.export.check.verify`; what it has no words for is left out.
    """
    parts = []
    if "sr_close_share" in parity:
        parts.append(f"{share(parity['sr_close_share'])} of values within 1/255 of eager PyTorch")
    if "sr_near_share" in parity:
        parts.append(f"{share(parity['sr_near_share'])} within 2/255")
    if "sr_psnr" in parity:
        parts.append(f"{parity['sr_psnr']:.0f} dB")
    if "x0_relative_l2" in parity:
        parts.append(f"x_0 {parity['x0_relative_l2']:.1e} away")
    if "decoder_psnr" in parity:
        parts.append(f"the decoder {parity['decoder_psnr']:.0f} dB on equal codes")
    if "code_share" in parity:
        parts.append(f"{share(parity['code_share'])} of codes equal")
    if "category_share" in parity:
        parts.append(f"{share(parity['category_share'])} of tokens in the same category")
    if "psnr" in parity:
        parts.append(f"{parity['psnr']:.0f} dB on equal inputs, {parity['worst']:.1e} at worst")
    if "emulated" in parity:
        parts.append("emulated")
    if "largest" in parity:
        parts.append(f"magnitudes up to {parity['largest']:.3g}")
    return ", ".join(parts)


def share(value: float) -> str:
    """A share in percent; only the whole is 100 %."""
    return f"{math.floor(value * 1000) / 10:.4g} %"
