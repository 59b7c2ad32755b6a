#!/usr/bin/env python
"""Cross entropy and forward KL over a large vocabulary, from hidden states: ours, the plain way, and Liger's.

    python scripts/bench_fused_loss.py [--vocabulary 50257] [--tokens 2048] [--hidden 256 512] [--out FILE]

Value and gradients of the student's hidden states and head, beside the four products alone, in the same blocks: what no
way can go below. Every contender runs in a process of its own, in turn, and the order changes from repeat to repeat;
times are medians, and ratios those within a repeat. Memory is the peak over what the inputs take. Liger is measured
where it is installed (``pip install --no-deps liger-kernel``; compiled, it needs a C++ compiler). Needs a quiet
machine; takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench.report import Row, machine, row, show, write
from rich.console import Console
from torch import Tensor

from distill.core.lazy_logits import LazyLogits
from distill.core.signals import Batch
from distill.losses import CrossEntropy, HintonKL, head_terms

PRODUCTS, OURS, PLAIN = "floor: the products alone", "ours", "plain torch"
EAGER, COMPILED = "Liger, eager", "Liger, compiled"
GOALS = {PRODUCTS: 1.10, COMPILED: 1.0}
"""Ours takes at most so many times as long."""
MEMORY = 250
"""MiB that ours takes at most over the inputs and the gradient of the head."""


class Inputs:
    """Hidden states and heads of both models, drawn from a seed."""

    def __init__(self, tokens: int, vocabulary: int, hidden: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.student = torch.randn(tokens, hidden[0], generator=generator).requires_grad_()
        self.teacher = torch.randn(tokens, hidden[1], generator=generator)
        self.student_head = (0.05 * torch.randn(vocabulary, hidden[0], generator=generator)).requires_grad_()
        self.teacher_head = 0.05 * torch.randn(vocabulary, hidden[1], generator=generator)
        self.labels = torch.randint(vocabulary, (tokens,), generator=generator)


@torch.no_grad()
def products(given: Inputs) -> Tensor:
    """The four products, in the blocks that ours takes."""
    width = len(given.student_head)
    size = min(len(given.student), max(1, head_terms._BLOCK // width))
    ours, theirs = torch.empty(size, width), torch.empty(size, width)
    of_hidden, of_head = torch.empty_like(given.student), torch.zeros_like(given.student_head)
    for start in range(0, len(given.student), size):
        block = slice(start, min(len(given.student), start + size))
        a, b = ours[: block.stop - start], theirs[: block.stop - start]
        torch.mm(given.student[block], given.student_head.t(), out=a)
        torch.mm(given.teacher[block], given.teacher_head.t(), out=b)
        torch.mm(a, given.student_head, out=of_hidden[block])
        of_head.addmm_(a.t(), given.student[block])
    return of_head


def ours(given: Inputs) -> Tensor:
    """Both losses at once, a block at a time."""
    batch = Batch({"input_ids": given.labels}, labels=given.labels)
    student, teacher = LazyLogits(given.student, given.student_head), LazyLogits(given.teacher, given.teacher_head)
    total, _ = head_terms.head_terms([CrossEntropy(), HintonKL(1.0)], student, teacher, batch)
    return total / len(given.labels)


def plain(given: Inputs) -> Tensor:
    """All logits at once, as they are usually written."""
    logits = given.student @ given.student_head.t()
    expected = given.teacher @ given.teacher_head.t()
    kl = torch.nn.functional.kl_div(
        logits.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return torch.nn.functional.cross_entropy(logits, given.labels) + kl


def liger(given: Inputs, compiled: bool) -> Tensor:
    """Liger's chunked divergence; with beta 0 forward KL."""
    if compiled not in _LIGER:
        made = import_module("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDLoss
        _LIGER[compiled] = made(1.0, 1.0, beta=0.0, compiled=compiled)
    loss = _LIGER[compiled]
    value: Tensor = loss(given.student, given.student_head, given.teacher, given.teacher_head, given.labels)
    return value


_LIGER: dict[bool, Any] = {}

CONTENDERS: dict[str, Callable[[Inputs], Tensor]] = {
    PRODUCTS: products,
    OURS: ours,
    PLAIN: plain,
    EAGER: lambda given: liger(given, compiled=False),
    COMPILED: lambda given: liger(given, compiled=True),
}


def serve(name: str, settings: argparse.Namespace, pipe: Any) -> None:
    """In a process of its own: be told to run, and answer with seconds, MiB over the inputs, and the value."""
    torch.set_num_threads(settings.threads)
    given = Inputs(settings.tokens, settings.vocabulary, tuple(settings.hidden))
    run = CONTENDERS[name]

    def once() -> tuple[float, float]:
        start = time.perf_counter()
        value = run(given)
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start, float(value.detach()) if value.dim() == 0 else 0.0

    once()
    pipe.send(None)
    while pipe.recv():
        given.student.grad = given.student_head.grad = None
        before = _reset()
        seconds, value = once()
        pipe.send((seconds, (_status("VmHWM") - before) / 2**20, value))


def _reset() -> int:
    """Begin to measure the peak; what is in use, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(settings: argparse.Namespace) -> list[Row]:
    """Every contender's seconds and memory, and ours over the others'."""
    names = [name for name in CONTENDERS if "Liger" not in name or find_spec("liger_kernel")]
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, settings, theirs), daemon=True).start()
        pipes[name].recv()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for repeat in range(settings.repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            pipes[name].send(True)
            found[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(False)
    return [*_rows(names, found, settings), *_missing(names)]


def _rows(names: Sequence[str], found: dict[str, list[tuple[float, float, float]]], settings: Any) -> list[Row]:
    values = {name: median(value for _, _, value in found[name]) for name in names}
    rows = [
        row(name, [s for s, _, _ in found[name]], "s", note="" if name == PRODUCTS else f"loss {values[name]:.6f}")
        for name in names
    ]
    head = settings.vocabulary * settings.hidden[0] * 4 / 2**20
    for name in names:
        bound = {"at_most": round(head + MEMORY)} if name == OURS else {}
        note = f"of which the gradient of the head is {head:.0f}" if name == OURS else ""
        rows.append(row(f"{name}: memory", [m for _, m, _ in found[name]], "MiB", note=note, **bound))
    for name in names:
        if name != OURS:
            ratios = [a[0] / b[0] for a, b in zip(found[OURS], found[name], strict=True)]
            bound = {"at_most": GOALS[name]} if name in GOALS else {}
            rows.append(row(f"ours / {name}", ratios, "x", **bound))
    return rows


def _missing(names: Sequence[str]) -> list[Row]:
    return [Row(name, None, "s", note="not installed") for name in CONTENDERS if name not in names]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=2048)
    options.add_argument("--vocabulary", type=int, default=50257)
    options.add_argument("--hidden", type=int, nargs=2, default=[256, 512], help="width of student and teacher")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--out", type=Path, help="write the figures to this JSON file")
    settings = options.parse_args(argv)
    console = Console() if Console().is_terminal else Console(width=160)
    about = machine(settings.threads, "32-true")
    console.print("  ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    rows = measure(settings)
    sizes = f"{settings.tokens:,} tokens, {settings.hidden[0]} and {settings.hidden[1]} -> {settings.vocabulary:,}"
    show(f"Cross entropy + KL, {sizes}", rows, console)
    if settings.out:
        given = {name: value for name, value in vars(settings).items() if name != "out"}
        write(settings.out, about, given, {"fused_loss": rows})
    return rows


if __name__ == "__main__":
    main()
