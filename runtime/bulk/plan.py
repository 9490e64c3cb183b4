"""The plan of a run: what is frozen when it begins, and what its shards hold."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lpnsr.runtime.bulk.storage import Folder
from lpnsr.runtime.bundle import BUILTIN, BUILTIN_NAME, Bundle, sha256
from lpnsr.runtime.command.arguments import installed
from lpnsr.runtime.command.jobs import JobError
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.manifest import MANIFEST
from lpnsr.runtime.upscaler import Description, Upscaler

_PLAN = "plan.json"


class ShardRow(NamedTuple):
    """One picture.

    Attributes:
        input: its name in the folder of inputs.
        output: its output's name in the folder of outputs.
    """

    input: str
    output: str


class Shard(NamedTuple):
    """How much there is to do in a shard.

    Attributes:
        pictures: how many.
        pixels: of their outputs together, as estimated.
    """

    pictures: int
    pixels: int


@dataclass(frozen=True)
class RunOptions:
    """What is done to every picture, under the names of `lpnsr-run`'s options.

    Attributes:
        recipe: how it is upscaled.
        format: of the outputs, one of `lpnsr.runtime.pictures.formats.FORMATS`.
        quality: of lossy formats, 1 to 100.
        suffix: appended to each output's name.
        pattern: what an input's name must look like.
        salvage: decode what is left of damaged JPEGs.
        max_megapixels: of an input.
        tile: see `lpnsr.runtime.upscaler.Description`, like the following ones.
        batch: tiles at once.
        overlap: of tiles.
        backend: inference engine.
        precision: that it computes in.
    """

    recipe: Recipe = Recipe()  # noqa: RUF009, a frozen dataclass
    format: str = "png"
    quality: int = 95
    suffix: str = ""
    pattern: str = "*"
    salvage: bool = False
    max_megapixels: float = 200.0
    tile: tuple[int, int] | None = None
    batch: int | None = None
    overlap: int | None = None
    backend: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Plan:
    """What every worker of a run goes by.

    Attributes:
        input: folder of the inputs, a path or URL.
        output: folder of the outputs.
        model: the bundle's folder or name.
        bundle: SHA-256 of its manifest, which holds those of all its files.
        version: of this package.
        options: what is done to every picture.
        shards: by number.
    """

    input: str
    output: str
    model: str
    bundle: str
    version: str
    options: RunOptions
    shards: tuple[Shard, ...] = ()

    @classmethod
    def find(cls, run: Folder) -> Plan | None:
        """The plan in the folder of a run; None if there is none.

        Raises:
            JobError: it is damaged.
            StorageError: the store fails.
        """
        try:
            fields = json.loads(run.read(_PLAN))
            options = fields["options"]
            options["recipe"] = Recipe(**options["recipe"])
            options["tile"] = options["tile"] and tuple(options["tile"])
            fields["options"] = RunOptions(**options)
            fields["shards"] = tuple(Shard(*shard) for shard in fields["shards"])
            return cls(**fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise JobError(f"{run.url}/{_PLAN} is damaged; start anew in another folder") from error

    @classmethod
    def read(cls, run: Folder) -> Plan:
        """The same, where there must be one.

        Raises:
            JobError: there is none, or it is damaged.
            StorageError: the store fails.
        """
        if (found := cls.find(run)) is None:
            raise JobError(f"{run.url} holds no {_PLAN}; make one with: lpnsr-bulk plan, or run")
        return found

    def write(self, run: Folder) -> None:
        """Write it into the folder of a run; from then on, the run can be worked on."""
        run.write(_PLAN, json.dumps(asdict(self)).encode())

    def rows(self, run: Folder, shard: int) -> list[ShardRow]:
        """The pictures of a shard.

        Raises:
            JobError: its file is missing or damaged.
        """
        try:
            content = gzip.decompress(run.read(shard_file(shard)))
            rows = [ShardRow(*json.loads(line)) for line in content.splitlines()]
        except (FileNotFoundError, gzip.BadGzipFile, EOFError, ValueError, TypeError) as error:
            place = f"{run.url}/{shard_file(shard)}"
            raise JobError(f"{place} is damaged; start anew in another folder") from error
        return rows

    def upscaler(
        self, model: Path | None, threads: int | None, device: str | None = None
    ) -> Upscaler:
        """Open what the plan was made for.

        Args:
            model: where the bundle is on this machine; None for where the plan found it.
            threads: CPU threads; by default the engine decides.
            device: such as "cuda:1"; by default what the backend takes.

        Raises:
            JobError: this is another version, or another bundle.
            BackendError, BundleError, TilingError: see `Upscaler`.
        """
        if installed() != self.version:
            raise JobError(
                f"the plan was made by lpnsr {self.version}, this is {installed()}; "
                "install that one, or start anew in another folder"
            )
        options = self.options
        upscaler = Upscaler(
            Description(
                bundle=model or Path(self.model),
                backend=options.backend,
                device=device,
                tile=options.tile,
                batch=options.batch,
                overlap=options.overlap,
                threads=threads,
                precision=options.precision,
            )
        )
        if (found := fingerprint(upscaler.bundle)) != self.bundle:
            raise JobError(
                f"{upscaler.bundle.path} is another bundle ({found[:12]}) than the plan's "
                f"({self.bundle[:12]}); copy that one here, or name it with --model"
            )
        return upscaler

    def check_same(self, other: Plan, run: Folder) -> None:
        """Refuse a plan that asks for something else.

        Raises:
            JobError: there is a difference; names the first one.
        """
        mine, theirs = (dict(_flat(asdict(replace(plan, shards=())))) for plan in (self, other))
        for name in mine:
            if mine[name] != theirs[name]:
                raise JobError(
                    f"{run.url} holds a plan with another {name} ({mine[name]}, not "
                    f"{theirs[name]}); choose another --run, or go on with: lpnsr-bulk work"
                )


def shard_file(shard: int) -> str:
    """The file of a shard's rows in the folder of a run."""
    return f"shards/{shard:06}.jsonl.gz"


def fingerprint(bundle: Bundle) -> str:
    """Tells bundles apart."""
    return sha256(bundle.path / MANIFEST)


def portable(bundle: Bundle) -> str:
    """How another machine can call the bundle: its folder, or the name of the built-in one."""
    return BUILTIN_NAME if bundle.path == BUILTIN else str(bundle.path.absolute())


def _flat(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value
