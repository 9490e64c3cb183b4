"""Where published checkpoints are, what they must hash to, and under which terms.

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
        addresses: where it is, in the order of trying; empty if there is no direct address.
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
BSD_3 = Licence(
    "BSD 3-Clause",
    "https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE",
    "any use, with the authors' notice",
    free=True,
)
STABILITY = Licence(
    "Stability AI Community License",
    "https://huggingface.co/stabilityai/sd-turbo/blob/main/LICENSE.md",
    "commercial use only below the yearly revenue that the licence names",
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


def _sd_turbo(file: str, sha256: str) -> Source:
    """A file of SD-Turbo at the revision that diffusers' users pin; half the size of float32's."""
    revision = "b261bac6fd2cf515557d5d0707481eafa0485ec2"
    address = HubFile("stabilityai/sd-turbo", file, revision)
    page = "https://huggingface.co/stabilityai/sd-turbo"
    return Source((address,), STABILITY, page, sha256=sha256)


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
    # Address: Real-ESRGAN's inference_realesrgan.py. Size and SHA-256: OpenModelDB.
    "RealESRGAN_x4plus.pth": Source(
        ("https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth",),
        BSD_3,
        "https://github.com/xinntao/Real-ESRGAN/releases/tag/v0.1.0",
        67040989,
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
    ),
    # SHA-256: the manifest of github.com/isingmodel/latent-art-bench, which lists them by file.
    "unet/diffusion_pytorch_model.fp16.safetensors": _sd_turbo(
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "40ec400881e27d1376c7c95c5bd495f407b33756e80eb6365e301c33a07af6e5",
    ),
    "vae/diffusion_pytorch_model.fp16.safetensors": _sd_turbo(
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "3e4c08995484ee61270175e9e7a072b66a6e4eeb5f0c266667fe1f45b90daf9a",
    ),
    "text_encoder/model.fp16.safetensors": _sd_turbo(
        "text_encoder/model.fp16.safetensors",
        "bc1827c465450322616f06dea41596eac7d493f4e95904dcb51f0fc745c4e13f",
    ),
}
"""By the name that `lpnsr.models.presets` gives the file."""
