"""Run by test_sharding.py, and imported by it: a few steps of a small language model with tied weights and a regressor.

What is trained on is the same for any number of ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaConfig

from distill.core.record import note, steps_of
from distill.core.signals import IGNORE, Batch
from distill.core.utils.quiet import quiet_lightning
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.run.checkpoints.file import write
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig
from distill.training.sharding import Sharded

PRECISIONS = ("32-true", "bf16-mixed")
STEPS = 3


def model(width: int) -> torch.nn.Module:
    config = LlamaConfig(
        vocab_size=7,  # not a multiple of the ranks
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config)


def micro_batches() -> list[Batch]:
    """Four for each step, of two sequences each, of which more and more positions count."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 7, (8 * STEPS, 8), generator=generator)
    labels = torch.randint(0, 7, ids.shape, generator=generator)
    labels[torch.arange(8) > torch.arange(8 * STEPS)[:, None] % 8] = IGNORE
    return [
        Batch({"input_ids": ids[i : i + 2]}, labels=labels[i : i + 2], mask=labels[i : i + 2] != IGNORE)
        for i in range(0, 8 * STEPS, 2)
    ]


class Losses(Callback):
    """The loss of every micro-batch, as it is logged."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["loss"]))


class Deal(DataLoader[Any]):
    """Deals the micro-batches to the ranks."""

    def __iter__(self) -> Any:
        here = torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if here else (0, 1)
        return iter(micro_batches()[rank::world])


def trained(ranks: int, precision: str) -> dict[str, Any]:
    """What is left of the training: the student, the regressor, the losses of this rank, zeros as counted."""
    torch.manual_seed(0)
    student = model(8)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight[1:6] = 0
    student.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    note(student, {"kind": "sparsity", "layers": ["model.layers.0.mlp.up_proj"]})
    losses = [CrossEntropy(weight=0.5), HintonKL(), FitNetHint(layers={1: 1, 2: 2})]
    module = Distillation(student, Plain(), model(12), losses, OptimizerConfig(lr=0.05, warmup=0))
    seen = Losses()
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy=Sharded() if ranks > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
            gradient_clip_val=0.1,
            use_distributed_sampler=False,
            max_steps=STEPS,
            accumulate_grad_batches=4 // ranks,
            log_every_n_steps=1,
            logger=False,
            callbacks=[seen],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, Deal(range(4 * STEPS // ranks), batch_size=None))  # type: ignore[arg-type]
    whole = module.unsharded_student()
    if whole is None:
        return {}
    state = {name: value for name, value in module.state_dict().items() if name.startswith("losses.")}
    regressors = {name: getattr(value, "to_local", lambda v=value: v)() for name, value in state.items()}
    tied = whole.lm_head.weight is whole.model.embed_tokens.weight
    return {
        "student": whole.state_dict(),
        "regressors": regressors,
        "losses": torch.tensor(seen.seen),
        "plain": type(whole).__name__,
        "tied": tied,
        "zeros": steps_of(student)[0]["layers"],
        "trained": [name for name, p in whole.named_parameters() if p.requires_grad],
    }


if __name__ == "__main__":
    for each in PRECISIONS:
        found = trained(2, each)
        if found:
            write(found, Path(sys.argv[1]) / each)
