"""Run by tests/callbacks/qat/test_together.py on two ranks, whose inputs differ; each saves the student's state.

Scales of weights and inputs are learned and begin late: DDP must find a gradient for each from the first step on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.callbacks import QuantizationAwareTraining
from distill.losses import CrossEntropy
from distill.module import Distillation
from distill.optim import OptimizerConfig
from distill.quantize.scheme import ActivationScheme, WeightScheme
from distill.tasks import Plain


class Net(nn.Module):
    """Two layers, and one that only large inputs go through, which rank 0 never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rare, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.first(input)
        if input.max() > 1.5:
            x = x + self.rare(input)
        unused = torch.stack([p.sum() for p in self.rare.parameters()]).sum()  # DDP wants a gradient for it anyway
        out: Tensor = self.last(x.relu()) + 0 * unused
        return out


class Deal(DataLoader[Any]):
    """Four batches; rank r reads (r + 1) times the numbers -1 to 1."""

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        x = torch.linspace(-1, 1, 32).view(8, 4) * (rank + 1)
        return iter([(x, torch.arange(8) % 3)] * 4)


def main(out: Path) -> None:
    torch.manual_seed(0)
    student = Net()
    weights = WeightScheme(bits=4, learned=True)
    inputs = ActivationScheme(learned=True)
    qat = QuantizationAwareTraining(weights, inputs, begin=2, freeze_observers=4, include=["."])
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_steps=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[qat],
    )
    module = Distillation(student, Plain(), None, [CrossEntropy()], OptimizerConfig(lr=0.05, warmup=0))
    trainer.fit(module, Deal(range(4), batch_size=None))  # type: ignore[arg-type]
    with torch.no_grad():
        logits = student.eval()(torch.linspace(-2, 2, 32).view(8, 4))
    torch.save(student.state_dict() | {"logits": logits}, f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
