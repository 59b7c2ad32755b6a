"""Images mixed with each other, and their labels with them; both models read the same mixture."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import one_hot

from distill.core.argument_types import refuse_types
from distill.core.draws import draw, order, uniform
from distill.core.internals.lightning import batches_begun
from distill.core.signals import IGNORE, Batch
from distill.core.step_callback import StepCallback
from distill.core.utils.errors import UserError

__all__ = ["Mixup", "cut_mixed", "label_rows", "mixed"]

_KEY = "callbacks.Mixup"


def mixed(x: Tensor, partner: Tensor, share: float) -> Tensor:
    """share * x + (1 - share) * x[partner], of samples ``[B, ...]``.

    Reference:
        Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization, ICLR 2018.
    """
    return share * x + (1 - share) * x[partner]


def cut_mixed(x: Tensor, partner: Tensor, share: float, centre: tuple[float, float]) -> tuple[Tensor, float]:
    """Images ``[B, C, H, W]`` in which a box is the partner's, and the part of each that is still its own.

    Args:
        x: Images.
        partner: Whose box each gets.
        share: The box has 1 - share of the area, as far as it lies inside.
        centre: Of the box, in parts of height and width.

    Reference:
        Yun et al.: CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019.
    """
    sizes = x.shape[-2:]
    halves = [size * math.sqrt(1 - share) / 2 for size in sizes]
    box = [
        slice(max(0, round(at * size - half)), min(size, round(at * size + half)))
        for at, size, half in zip(centre, sizes, halves, strict=True)
    ]
    out = x.clone()
    out[..., box[0], box[1]] = x[partner][..., box[0], box[1]]
    area = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    return out, 1 - area / (sizes[0] * sizes[1])


def label_rows(labels: Tensor, classes: int) -> Tensor:
    """Labels ``[B]`` as rows of probabilities ``[B, C]``, of NaN where there is none; rows are left as they are."""
    if labels.is_floating_point():
        return labels
    rows = one_hot(labels.clamp(min=0), classes).float()
    return rows.masked_fill((labels == IGNORE)[:, None], math.nan)


class Mixup(StepCallback):
    """Trains on mixtures of each micro-batch's samples (mixup, CutMix); validation is left alone.

    One share λ ~ Beta(a, a) a micro-batch mixes every sample with a partner, and its label, a row of probabilities,
    likewise. Teacher and student read the same mixture, and the teacher runs at every step, as nothing that it said
    before is of these inputs. What is drawn is a function of the seed, the batch's number and the rank: a resumed run
    mixes alike.

    Args:
        classes: How many there are.
        mixup: a of mixup; 0 is none.
        cutmix: a of CutMix, of images ``[B, C, H, W]``; 0 is none. Of both, each batch is one of the two.
        share: Part of the batches that are mixed.
        seed: Of the draws.

    Raises:
        UserError: if a number is out of range; or, as training begins, if the inputs are no floating-point tensors, a
            label is none of the classes, a teacher is recorded, or the module is no Distillation.
    """

    def __init__(
        self, classes: int, mixup: float = 0.2, cutmix: float = 0.0, share: float = 1.0, seed: int = 0
    ) -> None:
        refuse_types(Mixup, locals(), f"{_KEY}.")
        rules = (
            ("classes", classes, classes > 1, "must be 2 or more"),
            ("mixup", mixup, 0 <= mixup < math.inf, "must be 0 or more"),
            ("cutmix", cutmix, 0 <= cutmix < math.inf, "must be 0 or more"),
            ("mixup", mixup, mixup > 0 or cutmix > 0, "and cutmix are 0, so nothing is mixed"),
            ("share", share, 0 < share <= 1, "must lie in (0, 1]"),
        )
        for name, value, holds, problem in rules:
            if not holds:
                raise UserError(problem, key=f"{_KEY}.{name}", value=value, hint=f"give another {name}")
        self.classes, self.mixup, self.cutmix, self.share, self.seed = classes, mixup, cutmix, share, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        teacher = getattr(pl_module, "teacher", None)
        if not hasattr(pl_module, "terms"):
            problem, hint = "mixes what a Distillation trains on", "mix in your own training_step"
            raise UserError(problem, key=_KEY, value=type(pl_module).__name__, hint=hint)
        if teacher is not None and not teacher.models:
            problem = "mixes inputs, and a teacher that was recorded or is asked elsewhere has no answer to these"
            raise UserError(problem, key=_KEY, hint="give the teacher itself")

    def trained_on(self, trainer: Trainer, batch: Batch) -> Batch:
        keys = self.seed, batches_begun(trainer), trainer.global_rank
        if float(uniform(*keys, 0)[0]) >= self.share:
            return batch
        self._check(batch)
        cuts = self.cutmix > 0 and (self.mixup == 0 or float(uniform(*keys, 1)[0]) < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        own = float(np.random.default_rng(draw(*keys, 2)).beta(alpha, alpha))
        device = next(iter(batch.inputs.values())).device
        partner = torch.from_numpy(order(batch.size, *keys, 3)).to(device)
        inputs: dict[str, Any] = {}
        for name, x in batch.inputs.items():
            if cuts:
                centre = float(uniform(*keys, 4)[0]), float(uniform(*keys, 5)[0])
                inputs[name], own = cut_mixed(x, partner, own, centre)
            else:
                inputs[name] = mixed(x, partner, own)
        labels = batch.labels
        if labels is not None:
            labels = mixed(label_rows(labels, self.classes), partner, own)
        mask = batch.mask if batch.mask is not None else torch.ones(batch.size, dtype=torch.bool, device=device)
        # Without ids nobody takes what a teacher said of the samples for what it says of mixtures.
        return replace(batch, inputs=inputs, labels=labels, mask=mask & mask[partner], ids=None, on_host=None)

    def _check(self, batch: Batch) -> None:
        for name, x in batch.inputs.items():
            if not x.is_floating_point():
                problem = f"mixes numbers, and the input {name!r} is of {x.dtype}".replace("torch.", "")
                raise UserError(problem, key=_KEY, hint="leave it out where models read texts")
            if self.cutmix and (x.dim() != 4 or len(batch.inputs) > 1):
                problem = f"cuts boxes out of images [B, C, H, W], and the input {name!r} is {list(x.shape)}"
                raise UserError(problem, key=f"{_KEY}.cutmix", value=self.cutmix, hint="set cutmix: 0")
        labels = batch.labels
        if labels is not None and labels.dim() != (2 if labels.is_floating_point() else 1):
            problem = f"mixes classes [B], or rows of probabilities, and labels are {list(labels.shape)}"
            raise UserError(problem, key=_KEY, hint="leave it out of other tasks")
        self._check_classes(labels if batch.on_host is None else batch.on_host.labels)
        if batch.tokens is not None or batch.extras:
            problem = "mixes whole samples, and these have tokens or parts of their own"
            raise UserError(problem, key=_KEY, hint="leave it out where models read sequences")

    def _check_classes(self, labels: Tensor | None) -> None:
        """Refuse labels that are none of the classes; looked at on the host where a copy is there, as that is free."""
        if labels is None or labels.is_floating_point():
            return
        wrong = ((labels < 0) | (labels >= self.classes)) & (labels != IGNORE)
        if bool(wrong.any()):
            problem = f"must count all classes, from 0 on, and a label is {int(labels[wrong][0])}"
            hint = f"give the number of classes, or {IGNORE} as label where there is none"
            raise UserError(problem, key=f"{_KEY}.classes", value=self.classes, hint=hint)
