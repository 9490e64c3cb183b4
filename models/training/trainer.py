"""The training loop, the same for every stage."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from lpnsr.models.training.checkpoint import (
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from lpnsr.models.training.config import Config, StageConfig
from lpnsr.models.training.discriminator import PatchDiscriminator
from lpnsr.models.training.errors import TrainingError
from lpnsr.models.training.log import CsvLog, contact_sheet
from lpnsr.models.training.losses import (
    discriminator_loss,
    feature_distance,
    generator_loss,
    perceptual_loss,
    pixel_loss,
)
from lpnsr.models.training.objectives import Objective
from lpnsr.models.training.photos import Pair, PairCrops, to_tensor

COLUMNS = (
    *("iteration", "loss", "pixel", "perceptual", "adversarial", "discriminator"),
    *("gradient", "learning_rate", "seconds"),
)


class Trainer:
    """Trains the network of one stage and keeps checkpoint, log and contact sheet in a folder.

    Args:
        stage: what is trained.
        name: of the stage.
        config: the whole configuration.
        data: where crops come from.
        validation: uint8 pairs for the contact sheet.
        folder: for `NAME.ckpt`, `NAME.csv` and `NAME.png`.
        device: where to compute.
    """

    def __init__(
        self,
        stage: Objective,
        name: str,
        config: Config,
        data: PairCrops,
        validation: Sequence[Pair],
        folder: Path,
        device: torch.device,
    ) -> None:
        self.stage, self.name, self.config = stage, name, config
        self.settings: StageConfig = config.stages[name]
        self.data, self.validation, self.device = data, validation, device
        self.folder = folder
        self.iteration = 0
        self.network = stage.network.train().requires_grad_(True)
        self.average = _Average(self.network, self.settings.ema)
        self.optimizer, self.scheduler = self._optimizer(self.network)
        self.pixel = pixel_loss(self.settings.pixel)
        self.perceptual: nn.Module | None = None
        if self.settings.perceptual or self.settings.degraded_perceptual:
            self.perceptual, note = perceptual_loss(device, latent=bool(stage.latent))
            tqdm.write(f"perceptual term: {note}")
        self.discriminator: PatchDiscriminator | None = None
        if self.settings.adversarial:
            self.discriminator = stage.discriminator(self.settings.judge_channels).to(device)
            self.judge_optimizer, self.judge_scheduler = self._optimizer(self.discriminator)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's file."""
        return self.folder / f"{self.name}.ckpt"

    def run(self) -> None:
        """Train to the end, from wherever the run is; the network ends as its average.

        Raises:
            TrainingError: the loss is not a number any more; the last checkpoint stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = CsvLog(self.folder / f"{self.name}.csv", COLUMNS, self.iteration)
        total = self.settings.iterations
        try:
            with tqdm(total=total, initial=self.iteration, desc=self.name, disable=None) as bar:
                while self.iteration < total:
                    row = self._step()
                    log.write(row)
                    bar.set_postfix(loss=f"{row[1]:.4f}", refresh=False)
                    bar.update()
                    if self.iteration % self.settings.save_every == 0 or self.iteration == total:
                        save_checkpoint(self.state(), self.checkpoint)
                        self._preview()
        finally:
            log.close()
        self.network.load_state_dict(self.average.network.state_dict())
        self.network.eval().requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        fixed = {"preset": self.config.preset, "stage": self.name, "settings": self._fingerprint()}
        return {
            **fixed,
            **parts,
            "iteration": self.iteration,
            "random": random_state(),
            "data": self.data.state,
        }

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            TrainingError: it cannot be read, or is of another preset, stage or configuration.
        """
        state = load_checkpoint(self.checkpoint, self.config.preset, self.name)
        if state["settings"] != self._fingerprint():
            raise TrainingError(
                f"{self.checkpoint} was made with other settings; go on with the same "
                "configuration, or name another folder with --out"
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.iteration, self.data.state = state["iteration"], state["data"]
        set_random_state(state["random"])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "average": self.average.network,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }
        if self.discriminator is not None:
            parts["discriminator"] = self.discriminator
            parts["judge_optimizer"] = self.judge_optimizer
            parts["judge_scheduler"] = self.judge_scheduler
        return parts

    def _fingerprint(self) -> str:
        config = self.config
        shares = config.degraded_share, config.permuted_share, config.border_share
        return repr((config.seed, shares, asdict(self.settings)))

    def _optimizer(self, network: nn.Module) -> tuple[AdamW, LambdaLR]:
        optimizer = AdamW(network.parameters(), lr=self.settings.learning_rate)
        return optimizer, LambdaLR(optimizer, lambda step: rate(step, self.settings))

    def _step(self) -> list[int | float]:
        """One update of the network and, once it takes part, one of the discriminator."""
        started = time.monotonic()
        settings = self.settings
        batch = self.data.batch(settings.batch, settings.crop)
        lr, hr, degraded = (x.to(self.device) for x in batch)
        judging = self.iteration >= settings.adversarial_start
        judged = degraded if settings.judged == "degraded" else torch.ones_like(degraded)
        discriminator = self.discriminator if judging and judged.any() else None
        perceptual = adversarial = judge = lr.new_zeros(())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bfloat16):
            found, expected, *more = self.stage.predict(lr, hr)
            if self.perceptual is not None or discriminator is not None:
                picture, original = self.stage.judged(found, expected, hr)
            if discriminator is not None:
                seen = [self.stage.shown(each, lr)[judged] for each in (picture, original)]
                adversarial = self._adversarial(discriminator, *seen)
        pixel = self._pixel(found.float(), expected, degraded)
        if self.perceptual is not None:
            perceptual = self._perceptual(self.perceptual, picture, original, degraded)
        loss = sum(more, pixel + perceptual + judged.float().mean() * adversarial)
        rate_now = float(self.scheduler.get_last_lr()[0])
        gradient = self._update(self.network, self.optimizer, self.scheduler, loss)
        self.average.update(self.network, self.iteration)
        if discriminator is not None:
            discriminator.requires_grad_(True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bfloat16):
                verdicts = [discriminator(pictures.detach()).float() for pictures in seen]
            judge = discriminator_loss(*verdicts)
            self._update(discriminator, self.judge_optimizer, self.judge_scheduler, judge)
        terms = [value.item() for value in (loss, pixel, perceptual, adversarial, judge)]
        row = [self.iteration, *terms, gradient, rate_now, time.monotonic() - started]
        self.iteration += 1
        return row

    def _pixel(self, found: Tensor, expected: Tensor, degraded: Tensor) -> Tensor:
        """The loss on values, a scalar, with what clean crops add to it."""
        loss, clean = self.pixel(found, expected), ~degraded
        if self.settings.clean_error and clean.any():
            error = pixel_loss("psnr")(found[clean], expected[clean])
            loss = loss + self.settings.clean_error * clean.float().mean() * error
        return loss

    def _perceptual(
        self, distance: nn.Module, picture: Tensor, hr: Tensor, degraded: Tensor
    ) -> Tensor:
        """The perceptual term, a scalar, with the weights of clean and of degraded crops."""
        settings, total = self.settings, picture.new_zeros(())
        extra = {False: 0.0, True: settings.degraded_perceptual}
        for kind, more in extra.items():
            chosen = degraded == kind
            if chosen.any():
                term = distance(picture[chosen], hr[chosen]).mean()
                total = total + (settings.perceptual + more) * chosen.float().mean() * term
        return total

    def _adversarial(self, discriminator: PatchDiscriminator, found: Tensor, hr: Tensor) -> Tensor:
        """What the discriminator makes of pictures, a weighted scalar."""
        settings = self.settings
        discriminator.requires_grad_(False)
        *features, verdicts = discriminator.features(found)
        loss = settings.adversarial * generator_loss(verdicts.float())
        if settings.features:
            with torch.no_grad():
                *expected, _ = discriminator.features(hr)
            loss = loss + settings.features * feature_distance(features, expected)
        return loss

    def _update(
        self, network: nn.Module, optimizer: AdamW, scheduler: LambdaLR, loss: Tensor
    ) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip_grad_norm_(network.parameters(), self.settings.clip).item()
        if not (math.isfinite(norm) and math.isfinite(loss.item())):
            raise TrainingError(
                f"the loss is not a number in iteration {self.iteration}; {self._kept()} "
                "Go on with --resume and a lower learning_rate"
            )
        optimizer.step()
        scheduler.step()
        return norm

    def _kept(self) -> str:
        if self.checkpoint.exists():
            return f"{self.checkpoint} is from before."
        return "no checkpoint had been written yet."

    @torch.no_grad()
    def _preview(self) -> None:
        """Write the contact sheet: bicubic, the average so far, the original."""
        if not self.validation:
            return
        weights = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.network.state_dict())
        rows = []
        for small, large in self.validation:
            lr, hr = to_tensor([small]).to(self.device), to_tensor([large])
            bicubic = nn.functional.interpolate(lr, hr.shape[2:], mode="bicubic")
            rows.append([picture[0].cpu() for picture in (bicubic, self.stage.preview(lr), hr)])
        self.network.load_state_dict(weights)
        contact_sheet(rows, self.folder / f"{self.name}.png")


class _Average:
    """Exponential moving average of weights, whose memory is short at first."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, iteration: int) -> None:
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        for mean, new in zip(self.network.parameters(), network.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)


def rate(step: int, settings: StageConfig) -> float:
    """Factor of the learning rate: a linear warm-up, then a cosine to the final rate."""
    least = settings.final_learning_rate / settings.learning_rate
    rising = min(1.0, (step + 1) / max(1, settings.warm_up))
    return rising * (least + (1 - least) * (1 + math.cos(math.pi * step / settings.iterations)) / 2)
