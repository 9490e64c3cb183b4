"""Where published checkpoints are to be had, what they must hash to, and under which terms.

Each entry says where its facts come from. A size or SHA-256 that nobody has published is left out;
`lpnsr.models.download` then keeps what the first download had.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """Terms of a checkpoint.

    Attributes:
        name: of the licence.
        address: its text.
        consequence: what it means, in one line.
        free: whether commercial use is allowed, so that nobody has to be asked.
    """

    name: str
    address: str
    consequence: str
    free: bool = False


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository on Hugging Face.

    Attributes:
        repository: owner and name.
        file: path inside.
        revision: branch, tag or commit.
    """

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class Source:
    """How to get one checkpoint file.

    Attributes:
        addresses: where it is, what is tried first first; empty if there is no direct address.
        licence: its terms.
        page: where people find it.
        size: in bytes.
        sha256: hexadecimal.
    """

    addresses: tuple[HubFile | str, ...]
    licence: Licence
    page: str
    size: int | None = None
    sha256: str | None = None


S_LAB = Licence(
    "S-Lab License 1.0",
    "https://github.com/zsyOAOA/ResShift/blob/master/LICENSE",
    "non-commercial use only; for anything else ask the authors of ResShift",
)
# SinSR's LICENSE file; parts of its code, and the network itself, are ResShift's.
CC_BY_NC_SA = Licence(
    "CC BY-NC-SA 4.0",
    "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode",
    "non-commercial use only, with attribution, and what is made of it under the same terms",
)
MIT = Licence(
    "MIT",
    "https://github.com/Faze-Hsw/LPNSR/blob/HEAD/LICENSE",
    "any use, with the authors' notice; it was trained with networks that are non-commercial",
    free=True,
)
APACHE = Licence(
    "Apache 2.0",
    "https://www.apache.org/licenses/LICENSE-2.0",
    "any use, with the authors' notice",
    free=True,
)

_LPNSR_PAGE = "https://huggingface.co/mirpri/LPNSR"
_RESSHIFT_PAGE = "https://github.com/zsyOAOA/ResShift/releases/tag/v2.0"
_SINSR_PAGE = "https://github.com/wyf0912/SinSR/releases/tag/v1.0"
# The only place that UPSR's README names; the LICENSE.txt of its repository is Apache 2.0.
_UPSR_PAGE = "https://drive.google.com/drive/folders/1Rde_8kTeNEA4kjUqCv2tiXV0vmmVCKGR"
# The address that the `_LINK` table of ResShift's inference_resshift.py gives.
_RESSHIFT = "https://github.com/zsyOAOA/ResShift/releases/download/v2.0"
# The address in SinSR's inference.py.
_SINSR = "https://github.com/wyf0912/SinSR/releases/download/v1.0"
# LPNSR's README says that all weights are in "the Release of this repository" and names no tag.
_LPNSR = "https://github.com/Faze-Hsw/LPNSR/releases/latest/download"


def _hub(file: str) -> HubFile:
    """A file of the repository that LPNSR's README names."""
    return HubFile("mirpri/LPNSR", file)


SOURCES = {
    # Size and SHA-256: an LFS pointer in github.com/ywyksll/img_sr, and a public script that
    # fetches it from ResShift's release and runs `sha256sum -c`.
    "autoencoder_vq_f4.pth": Source(
        (f"{_RESSHIFT}/autoencoder_vq_f4.pth", _hub("autoencoder_vq_f4.pth")),
        S_LAB,
        _RESSHIFT_PAGE,
        221364711,
        "e967eaa2c380152811c53e312990d6967a8a957c4f7590f19490ec72110b2889",
    ),
    # Size and SHA-256: an LFS pointer in the same repository, commit 060299eb.
    "resshift_realsrx4_s4_v3.pth": Source(
        (f"{_RESSHIFT}/resshift_realsrx4_s4_v3.pth", _hub("resshift_realsrx4_s4_v3.pth")),
        S_LAB,
        _RESSHIFT_PAGE,
        477917058,
        "878da888bbbe10b8b0d4ff179c2de3059fd8a4cf2c705942a77a7f3b23ea1efd",
    ),
    # SinSR distils it, and its authors publish a copy.
    "resshift_realsrx4_s15_v1.pth": Source(
        (
            f"{_RESSHIFT}/resshift_realsrx4_s15_v1.pth",
            f"{_SINSR}/resshift_realsrx4_s15_v1.pth",
        ),
        S_LAB,
        _RESSHIFT_PAGE,
    ),
    "SinSR_v1.pth": Source((f"{_SINSR}/SinSR_v1.pth",), CC_BY_NC_SA, _SINSR_PAGE),
    # Address: SwinIR's main_test_swinir.py. Size and SHA-256: OpenModelDB and nine projects.
    "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth": Source(
        (
            "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0/"
            "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
            _hub("003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth"),
        ),
        APACHE,
        "https://github.com/JingyunLiang/SwinIR/releases/tag/v0.0",
        142473939,
        "99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a",
    ),
    # LPNSR's README has had two spellings; GitHub writes a dot for each bracket of a release file.
    "noise_predictor_v2.pth": Source(
        (
            _hub("noise_predictor_v2.pth"),
            _hub("noise_predictor(v2).pth"),
            f"{_LPNSR}/noise_predictor_v2.pth",
            f"{_LPNSR}/noise_predictor.v2.pth",
        ),
        MIT,
        _LPNSR_PAGE,
    ),
    "upsr.pth": Source((), APACHE, _UPSR_PAGE),
    "atd_real.pth": Source((), APACHE, _UPSR_PAGE),
}
"""By the name that `lpnsr.models.presets` gives the file."""
