"""Ways to train a language model's student on the same texts, a step at a time, for ``bench_lm.py``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.lm_work import BATCH, HIDDEN, LENGTH, RECORDINGS, TOPK, Clock, Work, linear_weights, slug

FLOOR = "the products alone (floor)"
OURS, ALONE = "ours, live", "ours, fine-tuning"
BARE = "a bare loop"
TRL_SFT, TRL_GKD, TRL = "TRL, SFTTrainer", "TRL, GKDTrainer (lmbda 0)", "TRL, DistillationTrainer"


def ours(work: Work, name: str, clock: Clock) -> None:
    """A run of this project, with its checkpoints switched off."""
    from pytorch_lightning import Callback

    from distill.core.utils.quiet import quiet_lightning
    from distill.run.folder import Run
    from distill.workflows.job.build import build, make_trainer

    class Ends(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            clock.tick()

    kl = {"class_path": "HintonKL", "init_args": {"temperature": 1.0}}
    taught: dict[str, Any] | None = {"path": str(work.folder / "teacher")}
    if name in RECORDINGS:
        taught = {"recorded": str(work.folder / slug(name))}
    if name == ALONE:
        taught = None
    losses: list[Any] = [{"class_path": "CrossEntropy"} if name == ALONE else kl]
    job = build(work.config(losses, taught), run=Run(Path("unused")))
    with quiet_lightning():
        trainer = make_trainer(job, callbacks=[Ends()], enable_checkpointing=False)
        trainer.fit(job.module, datamodule=job.data)


def bare(work: Work, name: str, clock: Clock) -> None:
    """What one would write: both models' logits as a whole, and the formula."""
    teacher, student = work.model("teacher").eval(), work.model("student").train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    blocks = torch.tensor(work.rows()).view(work.steps, BATCH, LENGTH)
    for ids in blocks:
        with torch.no_grad():
            theirs = teacher(ids, use_cache=False).logits.log_softmax(-1)
        mine = student(ids, use_cache=False).logits.log_softmax(-1)
        sizes = {"reduction": "batchmean", "log_target": True}
        loss = nn.functional.kl_div(mine.flatten(0, 1), theirs.flatten(0, 1), **sizes)  # type: ignore[arg-type]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def trl(work: Work, name: str, clock: Clock) -> None:
    """TRL's trainers, on blocks of tokens."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback

    class Ends(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.tick()

    tokenizer = AutoTokenizer.from_pretrained(work.folder / "teacher")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    common: dict[str, Any] = {
        "output_dir": str(work.folder / "trl"),
        "per_device_train_batch_size": BATCH,
        "max_steps": work.steps,
        "learning_rate": 1e-4,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
    }
    rows = Dataset.from_dict({"input_ids": work.rows()})
    make = {TRL_SFT: _sft, TRL_GKD: _gkd, TRL: _distillation}[name]
    trainer = make(work, common, rows, tokenizer)
    trainer.add_callback(Ends())
    trainer.train()


def _sft(work: Work, common: dict[str, Any], rows: Any, tokenizer: Any) -> Any:
    trl = import_module("trl")
    settings = trl.SFTConfig(**common, max_length=LENGTH)
    return trl.SFTTrainer(work.model("student"), args=settings, train_dataset=rows, processing_class=tokenizer)


def _collated(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = torch.tensor([one["input_ids"] for one in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone(), "prompts": ids[:, :1]}


def _gkd(work: Work, common: dict[str, Any], rows: Any, tokenizer: Any) -> Any:
    gkd = import_module("trl.experimental.gkd")
    settings = gkd.GKDConfig(
        **common, lmbda=0.0, beta=0.0, temperature=1.0, max_length=LENGTH, remove_unused_columns=False
    )
    student, teacher = work.model("student"), work.model("teacher")
    return gkd.GKDTrainer(student, teacher, settings, _collated, rows, processing_class=tokenizer)


def _distillation(work: Work, common: dict[str, Any], rows: Any, tokenizer: Any) -> Any:
    from datasets import Dataset

    trl = import_module("trl")
    ready = iter(rows["input_ids"])

    class Fed(trl.DistillationTrainer):  # type: ignore[misc, name-defined]
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            ids = torch.tensor([next(ready) for _ in inputs])
            ones = torch.ones_like(ids)
            return {
                "prompt_ids": ids[:, :1], "prompt_mask": ones[:, :1],
                "completion_ids": ids[:, 1:], "completion_mask": ones[:, 1:],
                "num_items_in_batch": ones[:, 1:].sum(),
            }  # fmt: skip

    settings = trl.DistillationConfig(**common, beta=0.0, temperature=1.0)
    prompts = Dataset.from_dict({"prompt": ["."] * len(rows)})
    models = work.model("student"), work.model("teacher")
    return Fed(models[0], models[1], args=settings, train_dataset=prompts, processing_class=tokenizer)


def floor(work: Work, name: str, clock: Clock) -> None:
    """The step's products as one of the same number of operations, of a size at which this machine is fastest.

    Two operations a weight of the linear layers and a token forward, of the student's four more backward.
    """
    weights = {who: linear_weights(work.model(who)) for who in ("teacher", "student")}
    operations = BATCH * LENGTH * (2 * weights["teacher"] + 6 * weights["student"])
    size = 2048
    left, right = torch.randn(size, size), torch.randn(size, size)
    out = left @ right
    for _ in range(work.steps):
        for _ in range(round(operations / (2 * size**3))):
            torch.mm(left, right, out=out)
        clock.tick()


CONTENDERS: dict[str, Callable[[Work, str, Clock], None]] = {
    FLOOR: floor, OURS: ours, HIDDEN: ours, TOPK: ours, ALONE: ours, BARE: bare, TRL: trl, TRL_GKD: trl, TRL_SFT: trl,
}  # fmt: skip
