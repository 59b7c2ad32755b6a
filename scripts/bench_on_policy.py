"""What a step costs that the student writes itself, beside plain fine-tuning and distillation on texts.

python scripts/bench_on_policy.py --steps 12

The quickstart's pair (0.5 M parameters learn from 5.3 M), the same batches; seconds of the processor, one thread, so
that other jobs on the machine do not count. The median over the steps, without the first two.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback

from distill.config.files import load
from distill.core.utils.quiet import quiet_lightning
from distill.run.folder import Run
from distill.workflows.job.build import build, make_trainer

WRITTEN: dict[str, Any] = {"share": 1.0, "prompt_length": 64, "max_new_tokens": 64}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuning": ("quickstart/alone", {}),
    "distillation": ("quickstart/distilled", {}),
    "on policy, 64 + 64 tokens": ("quickstart/distilled", {"on_policy": WRITTEN}),
    "on policy, 64 + 192 tokens": ("quickstart/distilled", {"on_policy": WRITTEN | {"max_new_tokens": 192}}),
}


class Seconds(Callback):
    """Seconds of the processor from the end of one batch to the end of the next, and the tokens that they are for."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self.counted: list[int] = []
        self._since = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.process_time()
        self.found.append(now - self._since)
        self.counted.append(int(batch.count))
        self._since = now


def measure(recipe: str, changes: dict[str, Any], steps: int) -> tuple[float, float]:
    """Median seconds of a step, and the mean of the tokens that its loss is over."""
    config = load([recipe])
    config["model"] |= changes
    config["trainer"] |= {"max_steps": steps, "limit_val_batches": 0, "enable_progress_bar": False}
    job = build(config, run=Run(Path("unused")))
    seconds = Seconds()
    with quiet_lightning():
        trainer = make_trainer(job, callbacks=[seconds], enable_checkpointing=False)
        trainer.fit(job.module, datamodule=job.data)
    return statistics.median(seconds.found[2:]), statistics.mean(seconds.counted[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="of each way")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    first: float | None = None
    for name, (recipe, changes) in WAYS.items():
        seconds, tokens = measure(recipe, changes, steps)
        first = first or seconds
        print(
            f"{name:28} {1000 * seconds:7.0f} ms   {seconds / first:5.2f} x   {tokens:6.0f} tokens counted", flush=True
        )


if __name__ == "__main__":
    main()
