#!/usr/bin/env python
"""What a recorded teacher takes on disk, and how far its loss and its gradient are from those of the model that runs.

    python scripts/bench_recorded.py --teacher FOLDER --data FOLDER [--layers 10] [--blocks 8] [--out FILE]

The student is as many of the teacher's layers, untrained. Of blocks of 256 tokens, each form is recorded and read back,
and the KL divergence of the two models computed of it: its value, and its gradient with respect to what the student's
head reads (a position at a time) and to the head (summed over all positions), each as |g - g_live| / |g_live|. The
reverse divergence says what is left of the tail. Takes about four minutes on one core for SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench.report import Row, machine, row, show, write
from rich.console import Console
from torch import Tensor

from distill.config.files import long_form
from distill.core.lazy_head import why_not_lazy
from distill.core.signals import Batch, Request, Signals
from distill.data.loader import Collate
from distill.losses import CrossEntropy, HintonKL, ReverseKL
from distill.losses.head_terms import head_terms
from distill.models.teachers.recorded.shards import counts_of
from distill.training.module import Distillation
from distill.training.objective import objective
from distill.workflows.job.build import build
from distill.workflows.record import Form

LAZY = Request(logits=True, lazy=True)
FORMS = (
    Form("hidden", "bf16"),
    Form("hidden", "int8"),
    Form("topk", k=50),
    Form("topk", k=20),
    Form("sampled", draws=12),
    Form("sampled", draws=50),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train-split", default="validation", help="of the data; WikiText-2's is small")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--only", choices=("errors", "steps"))
    parser.add_argument("--repeats", type=int, default=3, help="steps that are timed")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    torch.manual_seed(0)
    model = {"task": "causal-lm", "teacher": {"path": given.teacher}, "losses": ["HintonKL"]}
    model |= {"student": {"layers": "uniform", "num_layers": given.layers}, "optimizer": {"lr": 1e-4}}
    data = {"path": given.data, "splits": {"train": given.train_split}, "pack_length": 256}
    job = build(long_form({"name": "bench", "model": model, "data": data, "trainer": {"max_steps": 1}}))
    sections: dict[str, list[Row]] = {}
    if given.only != "steps":
        sections["errors"] = measured(job.module, job.data, given.blocks)
        show(f"beside the teacher that runs, {given.blocks} blocks of 256 tokens", sections["errors"], Console())
    if given.only != "errors":
        sections["steps"] = steps(job.module, job.data, min(given.blocks, 4), given.repeats)
        show("a step on 4 blocks, in seconds of this process's processor time", sections["steps"], Console())
    if given.out:
        settings = {name: value for name, value in vars(given).items() if name not in ("out", "teacher", "data")}
        write(given.out, machine(torch.get_num_threads(), "32-true"), settings, sections)


def measured(module: Distillation, data: Any, blocks: int) -> list[Row]:
    """The figures of every form."""
    teacher, batch = module.teacher, batch_of(module, data, blocks)
    assert teacher is not None
    said = teacher.evaluate_lazily(batch)
    with torch.no_grad():
        student = module.task.forward(module.student.eval(), batch, LAZY)
    live = divergences(student, said, batch, reverse=True)
    rows = [Row("live: KL", live[0], "nats"), Row("live: reverse KL", live[1], "nats")]
    for form in FORMS:
        name, counts = named(form), counts_of(batch, int(batch.count))
        codec = form.codec(teacher, module.task, data, said)
        kept = codec.encode(said, batch)
        read = codec.decode(kept, counts, batch, LAZY)
        found = divergences(student, read, batch, reverse=form.kind != "sampled")
        rows.append(Row(f"{name}: bytes a position", sum(t.nbytes for t in kept.values()) / sum(counts), "B"))
        rows.append(Row(f"{name}: KL", 100 * (found[0] / live[0] - 1), "% off"))
        if form.kind != "sampled":
            rows.append(Row(f"{name}: reverse KL", 100 * (found[1] / live[1] - 1), "% off"))
        for what, one, other in zip(("by position", "of the head"), found[2], live[2], strict=True):
            rows.append(Row(f"{name}: gradient {what}", float(100 * (one - other).norm() / other.norm()), "% off"))
    return rows


def batch_of(module: Distillation, data: Any, blocks: int) -> Batch:
    """The first blocks; the student's head is tried, as a run tries it."""
    if why := why_not_lazy(module.student):
        raise SystemExit(f"the student's logits are not the product of a head: {why}")
    samples, collate = data.samples("train"), Collate(data.task, data.tokenizer)
    batch: Batch = collate([samples[(0, row)] for row in range(blocks)])
    return batch


def named(form: Form) -> str:
    """``topk 50``."""
    return " ".join(str(part) for part in (form.kind, form.dtype, form.k, form.draws) if part is not None)


def steps(module: Distillation, data: Any, blocks: int, repeats: int) -> list[Row]:
    """What the passes of a training step take: alone (cross entropy), beside the live teacher, and with each form."""
    teacher, batch = module.teacher, batch_of(module, data, blocks)
    assert teacher is not None
    said, counts = teacher.evaluate_lazily(batch), counts_of(batch, int(batch.count))
    sources: dict[str, Callable[[], Signals]] = {"alone": Signals, "live": lambda: teacher.signals(batch, LAZY)}
    for form in FORMS:
        codec = form.codec(teacher, module.task, data, said)
        kept = codec.encode(said, batch)
        sources[named(form)] = partial(codec.decode, kept, counts, batch, LAZY)
    module.student.train()
    taken: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(repeats):
        for name, source in sources.items():
            losses = [CrossEntropy() if name == "alone" else HintonKL(temperature=1.0)]
            started = time.process_time()
            student = module.task.forward(module.student, batch, LAZY)
            objective(losses, student, source(), batch)[0].backward()  # type: ignore[no-untyped-call]
            taken[name].append(time.process_time() - started)
            module.student.zero_grad()
    return [row(name, seconds, "s") for name, seconds in taken.items()]


def divergences(student: Signals, teacher: Signals, batch: Batch, reverse: bool) -> tuple[float, float, list[Tensor]]:
    """Mean KL and reverse KL, and the gradients of the former."""
    assert student.lazy_logits is not None
    lazy = student.lazy_logits
    hidden, weight = lazy.hidden.detach().clone().requires_grad_(), lazy.weight.detach().clone().requires_grad_()
    losses = [HintonKL(temperature=1.0), *([ReverseKL(weight=0.0)] if reverse else [])]
    expected = teacher.lazy_logits if teacher.sparse_logits is None else teacher.sparse_logits
    total, sums = head_terms(losses, replace(lazy, hidden=hidden, weight=weight), expected, batch)
    total.backward()  # type: ignore[no-untyped-call]
    means = [float(one / batch.count) for one in sums]
    assert hidden.grad is not None
    assert weight.grad is not None
    return means[0], means[-1], [hidden.grad, weight.grad]


if __name__ == "__main__":
    main()
