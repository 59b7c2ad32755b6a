"""Section 2: samples a second of Hinton distillation on SST-2, ours and the usual ways.

In every repeat all contenders train on the same phrases, drawn anew for the repeat: ours in random batches of
the length-bucketed order of an epoch, the others in random order, each batch padded to its longest phrase. The
order of the contenders turns from repeat to repeat, and speed-ups are ratios within a repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from bench import contenders
from bench.draw import Draw
from bench.pair import Pair, Settings, sst2
from bench.report import Row, row

FIRST, LATER = "ours, first epoch", "ours, from the second epoch on"
GROUPED, BREWER = "Trainer, grouped by length", "TextBrewer"
BACKWARD, STEP = "floor: student's forward and backward", "floor: the same, clipping and fused AdamW"

Run = Callable[[Draw], float]


def peers(settings: Settings) -> list[Row]:
    """Every contender's rate, and ours over the others'."""
    pair = sst2(settings)
    runs, missing = _contenders(pair, settings)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    padding: dict[str, float] = {}
    names = list(runs)
    for repeat in range(settings.repeats):
        draw = Draw.of(pair, settings.steps, seed=repeat)
        for name in names:
            rates[name].append(runs[name](draw))
        padding = _padding(pair, draw)
        # `ours` runs twice in a row: the second epoch follows the first.
        at = 2 if names[0] == FIRST else 1
        names = [*names[at:], *names[:at]]
    rows = [row(name, rates[name], "samples/s", note=_note(name, padding)) for name in runs]
    return [*rows, *_ratios(rates), *missing]


def _contenders(pair: Pair, settings: Settings) -> tuple[dict[str, Run], list[Row]]:
    """Contender -> what runs it; and a row for each that is not installed."""
    teacher = pair.source(remember=True)

    def first(draw: Draw) -> float:
        nonlocal teacher
        teacher = pair.source(remember=True)
        return contenders.ours(pair, settings, draw, teacher)

    runs: dict[str, Run] = {
        FIRST: first,
        LATER: lambda draw: contenders.ours(pair, settings, draw, teacher),
    }
    missing = []
    if find_spec("accelerate") is None:
        missing.append(_missing("Trainer", "accelerate"))
    else:
        runs |= _trainers(pair, settings)
    if contenders.textbrewer() is None:
        missing.append(_missing(BREWER, "textbrewer"))
    else:
        runs[BREWER] = lambda draw: contenders.text_brewer(pair, settings, draw)
    runs[BACKWARD] = lambda draw: contenders.floor(pair, settings, draw, optimizes=False)
    runs[STEP] = lambda draw: contenders.floor(pair, settings, draw, optimizes=True)
    return runs, missing


def _trainers(pair: Pair, settings: Settings) -> dict[str, Run]:
    default = contenders.default_optimizer()

    def named(optim: str | None) -> Run:
        return lambda draw: contenders.hub_trainer(pair, settings, draw, draw.shuffled(), optim)

    runs = {_trainer(default, " (its default)"): named(None)}
    if default != "adamw_torch":
        runs[_trainer("adamw_torch")] = named("adamw_torch")
    runs[GROUPED] = lambda draw: contenders.hub_trainer(pair, settings, draw, _grouped(pair, draw))
    return runs


def _trainer(optim: str, more: str = "") -> str:
    return f"Trainer, {optim}{more}"


def _grouped(pair: Pair, draw: Draw) -> list[int]:
    """The order of the Trainer's own ``group_by_length``."""
    lengths = pair.data.samples("train").lengths

    def arrange(rows: list[int]) -> list[int]:
        generator = torch.Generator().manual_seed(0)
        # It sorts up to 50 batches together; told how many, as it would take fewer of so small an epoch.
        sizes = [int(lengths[row]) for row in rows]
        order = get_length_grouped_indices(sizes, draw.size, min(50, draw.steps), generator)  # type: ignore[no-untyped-call]
        return [rows[i] for i in order]

    return draw.shuffled(arrange)


def _missing(name: str, package: str) -> Row:
    return Row(name, None, "samples/s", note=f"left out: {package} is not installed")


def _padding(pair: Pair, draw: Draw) -> dict[str, float]:
    """The share of padding in bucketed, random and grouped batches."""
    lengths = pair.data.samples("train").lengths.tolist()
    return {
        "bucketed": draw.padding(lengths),
        "random": draw.padding(lengths, draw.shuffled()),
        "grouped": draw.padding(lengths, _grouped(pair, draw)),
    }


def _note(name: str, padding: dict[str, float]) -> str:
    random = name == BREWER or name.startswith("Trainer")
    kind = "grouped" if name == GROUPED else "random" if random else "bucketed"
    optimizer = "; torch.optim.AdamW" if name == BREWER else ""
    return f"{kind} batches, {padding[kind]:.0%} padding{optimizer}"


def _ratios(rates: dict[str, list[float]]) -> list[Row]:
    """Ours over each peer; the goals are set against the Trainer as it comes."""
    goals = {FIRST: 2, LATER: 3}
    peers = [name for name in rates if name.startswith("Trainer") or name == BREWER]
    rows = []
    for mine, goal in goals.items():
        for theirs in peers:
            ratios = [a / b for a, b in zip(rates[mine], rates[theirs], strict=True)]
            judged = {"at_least": goal} if theirs != GROUPED else {}
            rows.append(row(f"{mine} : {theirs}", ratios, "x", **judged))
    share = [a / b for a, b in zip(rates[LATER], rates[STEP], strict=True)]
    return [*rows, row(f"{LATER} : floor with AdamW", share, "x")]
