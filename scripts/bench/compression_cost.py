"""What pruning and fake-quantization add to a step: the same batches, one short run a contender, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from bench.pair import CLIP, Pair, Settings
from bench.report import Row, row
from distill.callbacks import Determinism, GradualMagnitudePruning, QuantizationAwareTraining
from distill.core.signals import Batch
from distill.core.utils.quiet import quiet_lightning

WARM_UP = 4


class Clock(Callback):
    """Times the steps after the warm-up."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.started = perf_counter()
        self.ended = perf_counter()


def contenders(steps: int) -> dict[str, Callable[[], list[Callback]]]:
    """Name -> its callbacks. One update of the masks falls on the timed steps, as in a run of fifty times as many."""
    total = WARM_UP + steps + 1

    def pruning() -> Callback:
        return GradualMagnitudePruning(final_sparsity=0.8, begin=0, end=WARM_UP + steps // 2, every_n_steps=total)

    def qat(**when: Any) -> Callback:
        return QuantizationAwareTraining(observe=0, begin=0, float_validation=False, **when)

    return {
        "float": list,
        "pruning": lambda: [pruning()],
        "int8, observing": lambda: [qat(freeze_observers=total)],
        "int8, observers frozen": lambda: [qat(freeze_observers=2)],
        "pruning and int8": lambda: [pruning(), qat(freeze_observers=total)],
    }


def seconds(pair: Pair, settings: Settings, batches: Sequence[Batch], callbacks: list[Callback]) -> float:
    """Time of a step under these callbacks."""
    clock = Clock()
    with TemporaryDirectory() as folder, quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            precision=settings.precision,  # type: ignore[arg-type]
            max_steps=len(batches),
            gradient_clip_val=CLIP,
            logger=False,
            enable_checkpointing=False,
            callbacks=[*callbacks, Determinism(0), clock],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        loader: DataLoader[Batch] = DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]
        trainer.fit(pair.module(pair.source(remember=True)), train_dataloaders=loader)
    return (clock.ended - clock.started) / (len(batches) - WARM_UP - 1)


def mask_bytes(pair: Pair) -> float:
    """Bytes of mask for each weight that is pruned."""
    student = pair.student()
    GradualMagnitudePruning().prepare(student)
    masks = {name: buffer for name, buffer in student.named_buffers() if name.endswith("weight_mask")}
    weights = sum(student.get_parameter(name.removesuffix("_mask")).numel() for name in masks)
    return sum(mask.numel() * mask.element_size() for mask in masks.values()) / weights


def compression_cost(pair: Pair, settings: Settings) -> list[Row]:
    """The cost of each contender, over the float steps of the same repeat.

    The teacher's logits are remembered, so that a step is the student's alone: the teacher's forward pass would make
    every ratio look better.
    """
    ready = pair.batches(WARM_UP + settings.steps + 1)
    times: dict[str, list[float]] = {name: [] for name in contenders(settings.steps)}
    for repeat in range(settings.repeats):
        order = list(times) if repeat % 2 else list(times)[::-1]
        for name in order:
            times[name].append(seconds(pair, settings, ready, contenders(settings.steps)[name]()))
    rows = [row(name, [1000 * t for t in values], "ms a step") for name, values in times.items()]
    goals = {"pruning": 1.02, "int8, observing": 1.25, "int8, observers frozen": 1.25}
    for name, values in times.items():
        if name != "float":
            ratios = [mine / plain for mine, plain in zip(values, times["float"], strict=True)]
            goal: dict[str, Any] = {"at_most": goals[name]} if name in goals else {}
            rows.append(row(f"{name} : float", ratios, "x", **goal))
    size = mask_bytes(pair)
    return [*rows, Row("masks, bytes a weight", size, "", goal="<= 1", met=size <= 1)]
