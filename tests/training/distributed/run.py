"""Run by test_ranks.py: one optimizer step on eight uneven sequences, on as many ranks as told; saves the gradient.

And what the validation of the same sequences has measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from distill.core.signals import IGNORE, Batch
from distill.losses import CrossEntropy, FitNetHint, HintonKL, head_terms
from distill.tasks import Plain
from distill.training import objective
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


class Keep(Callback):
    """Saves the gradient that the first step used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def keep(*_: Any) -> None:
            head = getattr(pl_module.student, "lm_head", pl_module.student)
            torch.save(head.weight.grad.clone(), f"{self.path}.{trainer.global_rank}")

        trainer.optimizers[0].register_step_post_hook(keep)


def language_models() -> Distillation:
    """Two of them, whose logits are computed a block at a time."""
    objective._LARGE = 1
    head_terms._BLOCK = 3 * 7
    widths = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=7, initializer_range=0.5, **widths)
    module = Distillation(
        LlamaForCausalLM(config),
        "causal-lm",
        LlamaForCausalLM(config),
        [CrossEntropy(weight=0.5), HintonKL()],
        OptimizerConfig(name="sgd", lr=0.1, warmup=0),
    )
    assert not module.why_whole()
    return module


def encoder_decoders() -> Distillation:
    """Two of them, with hints for either stack."""
    widths = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    config = T5Config(vocab_size=7, **widths, decoder_start_token_id=0, initializer_factor=2.0)
    stacks: tuple[Any, ...] = ("encoder", "decoder")
    return Distillation(
        T5ForConditionalGeneration(config),
        "seq2seq",
        T5ForConditionalGeneration(config),
        [CrossEntropy(weight=0.5), HintonKL(), *(FitNetHint(stack=stack, name=stack) for stack in stacks)],
        OptimizerConfig(name="sgd", lr=0.1, warmup=0),
    )


def pairs() -> list[Batch]:
    """The same sequences, each to be written for another one that is read."""
    found = []
    for number, batch in enumerate(micro_batches()):
        assert batch.labels is not None
        read = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(number))
        tokens = torch.arange(5) < torch.tensor([[2 + number], [5 - number]])
        shifted = batch.labels.masked_fill(batch.labels == IGNORE, 0).roll(1, 1)
        shifted[:, 0] = 0
        inputs = {"input_ids": read, "attention_mask": tokens.long(), "decoder_input_ids": shifted}
        found.append(Batch(inputs, batch.labels, batch.mask, tokens, decoder_tokens=batch.mask))
    return found


def micro_batches(name: str = "input") -> list[Batch]:
    """Eight sequences in four batches; 1, 2, ... 8 positions count."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 7, (8, 8), generator=generator)
    labels = torch.randint(0, 7, (8, 8), generator=generator)
    labels[torch.arange(8)[None, :] > torch.arange(8)[:, None]] = IGNORE
    return [
        Batch(
            {name: ids[i : i + 2]},
            labels=labels[i : i + 2],
            mask=labels[i : i + 2] != IGNORE,
            extras={"bytes": (labels[i : i + 2] != IGNORE).long()},
        )
        for i in (0, 2, 4, 6)
    ]


class Deal(DataLoader[Any]):
    """Deals the micro-batches to the ranks."""

    named = "input"

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        return iter((pairs() if self.named == "pairs" else micro_batches(self.named))[rank::world])


def tables() -> Distillation:
    """Two tables of logits."""
    return Distillation(
        nn.Embedding(7, 7),
        Plain(),
        nn.Embedding(7, 7),
        [CrossEntropy(weight=0.5), HintonKL()],
        OptimizerConfig(name="sgd", lr=0.1, warmup=0),
    )


OF = {
    "tables": (tables, "input"),
    "language models a block at a time": (language_models, "input_ids"),
    "encoder-decoders": (encoder_decoders, "pairs"),
}
"""What is trained -> the module, and what it reads."""


def main(ranks: int, out: Path, of: str) -> None:
    torch.manual_seed(0)
    make, Deal.named = OF[of]
    module = make()
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        use_distributed_sampler=False,
        max_steps=1,
        accumulate_grad_batches=4 // ranks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Keep(out)],
    )
    loader = Deal(range(4 // ranks), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, loader)
    Path(f"{out}.{trainer.global_rank}.json").write_text(json.dumps(module.evidence.found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
