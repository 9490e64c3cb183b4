"""What is measured, as data: models, batch and picture size, and what others have published.

Published figures were measured by their authors, on their hardware; they are shown beside ours and
never computed with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.variants import vary


@dataclass(frozen=True)
class Model:
    """A preset, or one of its variants (see `lpnsr.models.variants.vary`).

    Attributes:
        label: its name in tables, as the published table has it.
        preset: name of the preset.
        steps: length of the chain; None for the whole.
        start: "bicubic" or "swinir"; None for the preset's own.
        timestep: that stands for every picture's; None if it is estimated, where there is one.
    """

    label: str
    preset: str
    steps: int | None = None
    start: str | None = None
    timestep: int | None = None

    def build(self) -> Preset:
        """The preset, varied.

        Raises:
            PresetError: there is no such preset or variant.
        """
        preset = get_preset(self.preset)
        return vary(preset, self.steps, start=self.start, timestep=self.timestep)

    @property
    def key(self) -> str:
        """Tells models apart in names of folders."""
        parts = {"t": self.steps, "at": self.timestep, "": self.start}
        return "-".join([self.preset, *(f"{k}{v}" for k, v in parts.items() if v is not None)])


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Attributes:
        label: the method; equal to a `Model`'s where it is the same.
        seconds: for the workload, where stated.
        gigabytes: peak memory, where stated.
        parameters: as stated.
        note: what else belongs to the row: other tables, other measures, how we read it.
    """

    label: str
    seconds: float | None = None
    gigabytes: float | None = None
    parameters: str = ""
    note: str = ""


@dataclass(frozen=True)
class Workload:
    """What `lpnsr-bench table NAME` measures.

    Attributes:
        name: of the workload.
        what: in words.
        models: to measure.
        batch: pictures at once.
        size: (height, width) of a picture.
        published: what others have measured.
        source: of the published figures, and the hardware that they were measured on.
        split: also runs the graphs as they were traced, without the rewrites, which shows what
            these are worth.
        published_batch, published_size: as in the table, where batch and size were changed.
    """

    name: str
    what: str
    models: tuple[Model, ...]
    batch: int = 1
    size: tuple[int, int] = (64, 64)
    published: tuple[Published, ...] = ()
    source: str = ""
    split: bool = False
    published_batch: int | None = None
    published_size: tuple[int, int] | None = None

    @classmethod
    def from_json(cls, fields: dict) -> Workload:
        """The workload that `dataclasses.asdict` made `fields` of."""
        models = tuple(Model(**model) for model in fields["models"])
        published = tuple(Published(**row) for row in fields["published"])
        return cls(**{**fields, "models": models, "published": published})

    def resized(self, batch: int | None, size: tuple[int, int] | None) -> Workload:
        """The same with another batch or picture size, which then is no longer the published."""
        return replace(
            self,
            batch=batch or self.batch,
            size=size or self.size,
            published_batch=self.batch if batch not in (None, self.batch) else None,
            published_size=self.size if size not in (None, self.size) else None,
        )


def _liqe(value: float, where: str = "") -> str:
    return f"LIQE {value:.3f} on RealSet80{where}"


BUILTIN = Model("built-in", "lpnsr-tiny")
LPNSR = Model("LPNSR-4", "lpnsr")

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("quick", "one tile with the built-in model", (BUILTIN,), split=True),
        Workload("tile", "one tile with the full-size model", (LPNSR,), split=True),
        Workload(
            "lpnsr-table1",
            "one tile, chains of one to four steps",
            (
                Model("ResShift-4", "resshift"),
                Model("LPNSR-4, bicubic start", "lpnsr", start="bicubic"),
                LPNSR,
                Model("LPNSR-3", "lpnsr", steps=3),
                Model("LPNSR-2", "lpnsr", steps=2),
                Model("LPNSR-1", "lpnsr", steps=1),
            ),
            published=(
                Published("ResShift-4", 0.81),
                Published(
                    "LPNSR-4, bicubic start", 1.09, note='"PreSet-B", which is so in our reading'
                ),
            ),
            source="LPNSR, table 1, hardware as the paper states it",
        ),
        Workload(
            "upsr-table2",
            "a batch of 32 tiles",
            (
                Model("ResShift-15", "resshift-15"),
                Model("ResShift-4", "resshift"),
                Model("UPSR-5", "upsr"),
            ),
            batch=32,
            published=(
                Published("LDM-15", 1.59, parameters="113.6+55.3 M"),
                Published("ResShift-15", 1.98, parameters="118.6+55.3 M"),
                Published("ResShift-4", 1.00, parameters="118.6+55.3 M"),
                Published("UPSR-5", 1.12, parameters="119.4+2.5 M"),
            ),
            source="UPSR, table 2, one RTX 4090",
        ),
        Workload(
            "dmsr-table2",
            "one picture, 128x128 to 512x512",
            (
                Model("RealESRGAN", "real-esrgan"),
                Model("SinSR-1", "sinsr"),
                Model("DM-SR-1", "dmsr"),
                Model("DM-SR-2", "dmsr", steps=2),
                Model("DM-SR-5", "dmsr", steps=5),
                Model("DM-SR-1, timestep 250", "dmsr", timestep=250),
            ),
            size=(128, 128),
            published=(
                Published("RealESRGAN", 0.065, parameters="16.70 M trained"),
                Published("StableSR-50", 3.460, parameters="152.70 M trained"),
                Published("SinSR-1", 0.140, parameters="118.58 M trained"),
                Published("OSEDiff-1", 0.177, parameters="8.50 M trained"),
                Published("InvSR-1", 0.117, parameters="33.84 M trained"),
                Published("DM-SR-1", 0.092, parameters="34.16 M trained", note=_liqe(4.652)),
                *(
                    Published(f"DM-SR-{steps}", note=_liqe(liqe, ", table 4"))
                    for steps, liqe in ((2, 4.799), (5, 4.773), (10, 4.503), (20, 4.152))
                ),
                *(
                    Published(f"DM-SR-1, timestep {timestep}", note=_liqe(liqe, ", table 3"))
                    for timestep, liqe in (
                        (50, 3.994),
                        (150, 4.314),
                        (250, 4.471),
                        (300, 4.433),
                        (500, 4.023),
                    )
                ),
            ),
            source="DM-SR, table 2, one A100",
        ),
        Workload(
            "upsr-table6",
            "one RealSR picture, taken for 128x128 to 512x512, with peak memory",
            (Model("UPSR-5", "upsr"),),
            size=(128, 128),
            published=(
                Published("StableSR-200", 33.0, 8.51, "1410 M"),
                Published("AddSR-1", 0.659, 8.47, "2280 M"),
                Published("OSEDiff-1", 0.310, 5.85, "1775 M"),
                Published("UPSR-5", 0.212, 2.83, "122 M"),
            ),
            source="UPSR, table 6, size and hardware not stated",
        ),
        Workload(
            "upsr-table7",
            "one RealSR picture, taken for 128x128 to 512x512, with peak memory",
            (Model("SinSR-1", "sinsr"), Model("UPSR-light-4", "upsr-light")),
            size=(128, 128),
            published=(
                Published("SinSR-1", 0.141, 4.03, "174 M"),
                Published("UPSR-light-4", 0.148, 2.48, "52.7 M"),
            ),
            source="UPSR, table 7, size and hardware not stated",
        ),
    )
}

TRAINING_BATCH = 16
TRAINING = {
    "resshift": Published("ResShift", 1.20, 24.1),
    "upsr": Published("UPSR", 0.45, 14.9),
}
"""What `lpnsr-bench training` measures, an iteration of each preset; published in UPSR, table 3,
with `TRAINING_BATCH` pictures per GPU."""
