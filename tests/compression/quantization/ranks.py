"""Run by tests/callbacks/qat/test_together.py on two ranks, whose inputs differ; each saves the student's state.

Scales of weights and inputs are learned and begin late: DDP must find a gradient for each from the first step on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.callbacks import QuantizationAwareTraining
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.starts.settings import Start
from distill.core.signals import Batch
from distill.losses import CrossEntropy
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


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


class Words(nn.Module):
    """Reads words, of which the padding, 0, is far larger than all others."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(40, 4), nn.Linear(4, 8), nn.Linear(8, 3)
        self.table.weight.data[0] = 100

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(self.table(input)).relu().mean(1))
        return out


def words(rank: int) -> tuple[Tensor, Tensor]:
    """Four sentences of a rank, and where they have words: more than half of rank 0's is padding."""
    lengths = torch.tensor([[2, 3, 4, 12], [5, 5, 5, 5]][rank])
    tokens = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(1, 40, tokens.shape, generator=torch.Generator().manual_seed(rank))
    return ids * tokens, tokens


class DealWords(DataLoader[Any]):
    """Two batches of each rank's own sentences."""

    def __iter__(self) -> Any:
        return iter([words(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)] * 2)


def read(raw: tuple[Tensor, Tensor]) -> Batch:
    ids, tokens = raw
    return Batch({"input": ids}, labels=torch.arange(4) % 3, tokens=tokens, ids=list(range(4)))


def main(out: Path) -> None:
    torch.manual_seed(0)
    student, reader = Net(), Words()
    qat = QuantizationAwareTraining(
        WeightScheme(bits=4, learned=True),
        ActivationScheme(learned=True),
        begin=2,
        freeze_observers=4,
        include=["."],
        start=Start(method="gptq"),
    )
    rank = fit(student, Plain(), Deal(range(4), batch_size=None), qat, max_steps=4, lr=0.05)  # type: ignore[arg-type]
    seen = QuantizationAwareTraining(
        activations=ActivationScheme(observer="minmax"), embeddings=None, begin=1, freeze_observers=2, include=["."]
    )
    loader: Any = DealWords(range(2), batch_size=None)  # type: ignore[arg-type]
    fit(reader, Plain(read), loader, seen, max_steps=2, lr=1e-12)
    with torch.no_grad():
        logits = student.eval()(torch.linspace(-2, 2, 32).view(8, 4))
    ranges = {f"words.{name}": value for name, value in reader.state_dict().items()}
    torch.save(student.state_dict() | ranges | {"logits": logits}, f"{out}.{rank}")


def fit(student: nn.Module, task: Plain, loader: Any, qat: Callback, max_steps: int, lr: float) -> int:
    """Train it on two ranks; which one this is."""
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[qat],
    )
    module = Distillation(student, task, None, [CrossEntropy()], OptimizerConfig(lr=lr, warmup=0))
    trainer.fit(module, loader)
    return trainer.global_rank


if __name__ == "__main__":
    main(Path(sys.argv[1]))
