"""How a run went: losses and scores, and when what was done to the student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.core.utils.plots import Line, Panel, draw_panel
from distill.core.utils.svg import inline_svg, themed
from distill.run.history import read_rows
from distill.workflows.report.views.blocks import Picture, Pictures

__all__ = ["compression_panels", "curve_pictures", "thinned"]

_POINTS = 300
"""The most of a line: there are no more pixels on the page."""

_PHASES = {"qat/observing": "observing", "qat/fake_quant": "rounding"}
_PRUNING = {"prune/sparsity": "sparsity", "prune/target_sparsity": "its schedule"}


def compression_panels(history: Path) -> list[Panel]:
    """What ``metrics.csv`` says of compressions and the learning rate, as far as it has them.

    It is what was done: the schedules say what was to be done.
    """
    wanted = {*_PHASES, *_PRUNING, "train/learning_rate"}
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_rows(history):
        for name, text in row.items():
            if text and (name in wanted or name.startswith("structure/")):
                _add(found, name, row["step"], text)
    last = max((steps[-1] for steps, _ in found.values()), default=0)
    pruning = [Line(words, *found[name], dashed="target" in name) for name, words in _PRUNING.items() if name in found]
    removed = [
        Line(name.removeprefix("structure/").replace("_", " "), *values)
        for name, values in found.items()
        if name.startswith("structure/") and len(set(values[1])) > 1
    ]
    phases = [_phase(words, *found[name], last) for name, words in _PHASES.items() if any(found.get(name, ((), ()))[1])]
    panels = [Panel("sparsity", pruning)] if pruning else []
    panels += [Panel("units", removed)] if removed else []
    panels += [Panel("quantization", phases, phases=True)] if phases else []
    if panels and "train/learning_rate" in found:
        panels.append(Panel("learning rate", [Line("learning rate", *found["train/learning_rate"])]))
    return panels


def _phase(name: str, steps: Sequence[int], values: Sequence[float], last: int) -> Line:
    """Where something is on, by the steps at which it changes."""
    changes = [at for at in range(len(values)) if not at or values[at] != values[at - 1]]
    return Line(name, [*(steps[at] for at in changes), last], [*(values[at] for at in changes), values[-1]])


def _add(found: dict[str, tuple[list[int], list[float]]], name: str, step: str, text: str) -> None:
    steps, values = found.setdefault(name, ([], []))
    steps.append(int(step or 0))
    values.append(float(text))


def thinned(line: Line, most: int = _POINTS) -> Line:
    """A line of fewer points: each is the mean of those that it stands for, at the last of their steps."""
    every = -(-len(line.values) // most)
    if every == 1:
        return line
    parts = [(line.steps[at : at + every], line.values[at : at + every]) for at in range(0, len(line.values), every)]
    steps, values = [part[-1] for part, _ in parts], [sum(part) / len(part) for _, part in parts]
    return Line(line.name, steps, [*values[:-1], line.values[-1]], line.noisy, line.dashed, line.last)


def curve_pictures(panels: Sequence[Panel], total_steps: int, name: str) -> Pictures:
    """A picture of each panel.

    Args:
        panels: Of :func:`~distill.workflows.timeline.history_panels` or :func:`compression_panels`.
        total_steps: Of the run.
        name: That the ids begin with.
    """
    pictures = []
    for number, panel in enumerate(panels):
        lines = panel.lines if panel.phases else [thinned(line) for line in panel.lines]
        thin = Panel(panel.title, lines, panel.phases, panel.from_zero)
        with themed():
            drawn = draw_panel(thin, total_steps)
            names = ", ".join(line.name for line in panel.lines)
            svg = inline_svg(drawn, f"{panel.title} over the optimizer steps: {names}", f"{name}{number}")
        pictures.append(Picture(svg, panel.title))
    return Pictures(pictures)
