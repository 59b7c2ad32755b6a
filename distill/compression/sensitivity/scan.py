"""How sensitive each layer is to pruning and rounding, and what each should give so that the model reaches a target."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, mse_loss

from distill.compression.pruning.granularity import as_matrix, from_matrix
from distill.compression.pruning.unit_choice import choose, count_at
from distill.compression.pruning.weights import PRUNABLE
from distill.compression.quantization.scheme import WeightScheme
from distill.compression.quantization.weights import fake_quantize_rows, grid
from distill.compression.sensitivity.allocate import allocate
from distill.core.lazy_head import logits_request
from distill.core.module_selection import refuse_rewritten, select
from distill.core.signals import Batch
from distill.core.task import Task
from distill.core.token_scores import LogitRows
from distill.core.utils.files import replace

__all__ = [
    "BITS",
    "SPARSITIES",
    "Kind",
    "Point",
    "draw",
    "layers",
    "overrides",
    "scan",
    "scan_groups",
    "tables",
    "write",
]

Kind = Literal["sparsity", "bits"]
_Try = tuple[str, nn.Module, Kind, float]

SPARSITIES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95)
BITS = (8, 6, 4, 3, 2)


@dataclass(frozen=True)
class Point:
    """The model with one layer compressed and all else as it was.

    Attributes:
        layer: Name of the layer.
        weights: How many it has.
        kind: ``sparsity`` or ``bits``.
        level: Its sparsity, or the bits of its weights.
        metric: The task's metric.
        divergence: Mean over the predictions of KL(model as it was || model with this layer compressed), in nats;
            for a regression the mean squared difference. It tells layers apart where the metric, counted over a few
            hundred samples, does not.
    """

    layer: str
    weights: int
    kind: Kind
    level: float
    metric: float
    divergence: float


def pruned(module: nn.Module, sparsity: float) -> Tensor:
    """The module's weight without its smallest entries."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    gone = choose(weight.detach().abs().flatten(), count_at(sparsity, weight.numel()))
    return weight.detach().masked_fill(gone.view_as(weight), 0)


def rounded(module: nn.Module, bits: int) -> Tensor:
    """The module's weight on a symmetric grid of so many bits, with a scale for each output channel."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    scheme, rows = WeightScheme().with_bits(bits), as_matrix(module, weight.detach())
    return from_matrix(module, fake_quantize_rows(rows, grid(rows, scheme), scheme))


def layers(model: nn.Module) -> dict[str, list[str]]:
    """What is scanned: all that pruning takes where nothing else is said, each weight once.

    Returns:
        Name of the first layer with a weight -> names of all layers that have it.
    """
    return _by_weight(select(model, PRUNABLE, key="sensitivity"))


def tables(model: nn.Module) -> dict[str, list[str]]:
    """Embedding tables that are none of :func:`layers`: they are rounded, and not pruned. As there, by first name."""
    pruned = {id(model.get_submodule(name).weight) for name in layers(model)}
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    able = {name: one for name, one in found.items() if one.max_norm is None and id(one.weight) not in pruned}
    return _by_weight(able)


def _by_weight(chosen: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Name of the first module with a weight -> names of all that have it."""
    refuse_rewritten(chosen, "sensitivity")
    names: dict[int, list[str]] = {}
    for name, module in chosen.items():
        names.setdefault(id(module.weight), []).append(name)
    return {shared[0]: shared for shared in names.values()}


@contextmanager
def _with_weight(module: nn.Module, weight: Tensor) -> Iterator[None]:
    parameter = module.weight
    assert isinstance(parameter, nn.Parameter)
    kept = parameter.data
    parameter.data = weight.to(kept.dtype)
    try:
        yield
    finally:
        parameter.data = kept


def scan(
    model: nn.Module,
    task: Task,
    batches: Sequence[Batch],
    modules: Mapping[str, nn.Module] | None = None,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    bits: Sequence[int] = BITS,
    progress: Callable[[Sequence[_Try]], Iterable[_Try]] = iter,
    known: Callable[[str, Kind, float], Point | None] = lambda *_: None,
    keep: Callable[[Point], object] = lambda _: None,
) -> tuple[float, list[Point]]:
    """Compress one layer at a time and look what becomes of the predictions.

    Args:
        model: The student, in eval mode; afterwards it is as before.
        task: Reads the batches and judges.
        batches: With labels.
        modules: The layers, by name; :func:`layers` and :func:`tables` if not given.
        sparsities: To try in each layer but embedding tables.
        bits: To try in each layer.
        progress: Wraps the list of what is tried: ``rich.progress.track``, say.
        known: The point of a layer, a kind and a level that need not be tried again.
        keep: Is given every other one as soon as it has been tried.

    Returns:
        The metric of the model as it is, and the points.
    """
    if modules is None:
        modules = {name: model.get_submodule(name) for name in [*layers(model), *tables(model)]}
    model.eval()
    metric, reference, _ = _evaluate(model, task, batches)
    kinds: list[tuple[Kind, float]] = [("sparsity", level) for level in sparsities]
    kinds += [("bits", level) for level in bits]
    tries = [
        (name, module, kind, level)
        for name, module in modules.items()
        for kind, level in kinds
        if kind == "bits" or not isinstance(module, nn.Embedding)
    ]
    points = []
    for name, module, kind, level in progress(tries):
        if (point := known(name, kind, level)) is not None:
            points.append(point)
            continue
        weight = pruned(module, level) if kind == "sparsity" else rounded(module, int(level))
        with _with_weight(module, weight):
            value, _, divergence = _evaluate(model, task, batches, reference)
        points.append(Point(name, weight.numel(), kind, level, value, divergence))
        keep(points[-1])
    return metric, points


def scan_groups(
    model: nn.Module,
    task: Task,
    batches: Sequence[Batch],
    tries: Sequence[tuple[str, Kind, float, Sequence[nn.Module]]],
    *,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[Point]:
    """As :func:`scan`, but all layers of a group at once.

    Args:
        model: In eval mode; afterwards it is as before.
        task: Reads the batches and judges.
        batches: With labels.
        tries: Name of a group, what is done, to which level, and the layers.
        progress: Wraps ``tries``.

    Returns:
        A point for each, whose ``layer`` is the group.
    """
    model.eval()
    _, reference, _ = _evaluate(model, task, batches)
    points = []
    for name, kind, level, modules in progress(tries):
        with ExitStack() as stack:
            for module in modules:
                weight = pruned(module, level) if kind == "sparsity" else rounded(module, int(level))
                stack.enter_context(_with_weight(module, weight))
            value, _, divergence = _evaluate(model, task, batches, reference)
        weights = sum(module.get_parameter("weight").numel() for module in modules)
        points.append(Point(name, weights, kind, level, value, divergence))
    return points


@torch.inference_mode()
def _evaluate(
    model: nn.Module, task: Task, batches: Iterable[Batch], reference: Sequence[LogitRows] | None = None
) -> tuple[float, list[LogitRows], float]:
    """The metric, the logits that count of each batch, and how far those of ``reference`` are from them."""
    device = next(model.parameters()).device
    metrics = {name: metric.to(device) for name, metric in task.metrics().items()}
    seen: list[LogitRows] = []
    divergence, count = 0.0, 0
    for number, batch in enumerate(batches):
        signals = task.forward(model, batch, logits_request(model))
        task.score(metrics, signals, batch)
        rows = LogitRows(signals, batch.mask)
        if reference is None:
            seen.append(rows)
        else:
            divergence, count = divergence + _divergence(reference[number], rows), count + len(rows)
    return float(metrics[task.monitor].compute()), seen, max(0.0, divergence / max(1, count))


def _divergence(reference: LogitRows, other: LogitRows) -> float:
    """KL(reference || other) summed over the predictions, or the squared error of numbers."""
    total = 0.0
    for theirs, ours in zip(reference.blocks(), other.blocks(), strict=True):
        if theirs.shape[-1] == 1:
            total += float(mse_loss(ours, theirs, reduction="sum"))
        else:
            # A layer rounded to nothing may give any logits; what is no number is as far off as can be.
            logp = log_softmax(ours, -1).nan_to_num(nan=-100.0, neginf=-100.0)
            total += float(kl_div(logp, log_softmax(theirs, -1), log_target=True, reduction="sum"))
    return total


def overrides(points: Sequence[Point], kind: Kind, target: float) -> dict[str, float]:
    """Layer -> sparsity (or bits), the mean over all weights at least (at most) ``target``, at the least divergence.

    Args:
        points: Of :func:`scan`.
        kind: What is chosen.
        target: Mean sparsity, or mean bits, of the weights scanned.

    Raises:
        ValueError: if the levels that were tried do not reach the target.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    levels: dict[str, list[float]] = {}
    whole = 0.0 if kind == "sparsity" else max((p.level for p in points if p.kind == "bits"), default=0.0)
    for point in sorted(
        (p for p in points if p.kind == kind), key=lambda p: p.level if kind == "sparsity" else -p.level
    ):
        saving = point.weights * (point.level if kind == "sparsity" else whole - point.level)
        if kind == "sparsity" and point.layer not in curves:
            curves[point.layer], levels[point.layer] = [(0.0, 0.0)], [0.0]
        curves.setdefault(point.layer, []).append((saving, point.divergence))
        levels.setdefault(point.layer, []).append(point.level)
    weights = sum({p.layer: p.weights for p in points if p.kind == kind}.values())
    chosen = allocate(curves, weights * (target if kind == "sparsity" else whole - target))
    return {layer: levels[layer][number] for layer, number in chosen.items()}


def is_table(path: str | Path) -> bool:
    """Whether a file begins as :func:`write` begins one."""
    header = ",".join(field.name for field in fields(Point)).encode()
    with suppress(OSError), Path(path).open("rb") as file:
        return file.read(len(header) + 2).rstrip() == header
    return False


def write(points: Sequence[Point], path: str | Path) -> None:
    """Write the points as CSV."""
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, [field.name for field in fields(Point)])
    table.writeheader()
    table.writerows(asdict(point) for point in points)
    replace(Path(path), file.getvalue().encode())


def draw(points: Sequence[Point], path: str | Path, *, metric: float, task: Task) -> None:
    """Draw divergence (above) and metric (below) against sparsity and against bits, a line a layer.

    The layers most sensitive to either are named, and have the same colours in all four panels.

    Args:
        points: Of :func:`scan`.
        path: Of the picture.
        metric: Of the model as it is.
        task: Whose metric it is.
    """
    from distill.core.utils.plots import new_figure, save

    kinds: tuple[Kind, ...] = ("sparsity", "bits")
    curves = {kind: _curves(points, kind) for kind in kinds}
    most = [name for lines in curves.values() for name in sorted(lines, key=lambda name: -_most(lines[name]))[:3]]
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(most))}
    drawn = new_figure(11, 8)
    panels = drawn.subplots(2, 2, sharex="col", sharey="row")
    for (above, below), (kind, lines) in zip(panels.T, curves.items(), strict=True):
        for name, line in lines.items():
            style = {"marker": ".", "color": colours.get(name, "0.8"), "zorder": 3 if name in colours else 2}
            above.plot([p.level for p in line], [max(p.divergence, 1e-7) for p in line], **style)
            whole = [(0.0, metric)] if kind == "sparsity" else []
            at, values = zip(*whole, *((p.level, p.metric) for p in line), strict=True)
            below.plot(at, values, label=name if name in colours else None, **style)
        if kind == "bits":
            below.axhline(metric, color="0.3", linestyle="--", label="the model as it is")
            below.invert_xaxis()
        below.set_xlabel("sparsity of the layer" if kind == "sparsity" else "bits of the layer's weights")
        below.legend(fontsize=7)
    panels[0, 0].set_yscale("log")
    panels[0, 0].set_ylabel("divergence from the model as it is, nats")
    panels[1, 0].set_ylabel(task.monitor)
    if task.mode == "min":  # a perplexity may grow a thousandfold, beside which nothing else would be seen
        panels[1, 0].set_yscale("log")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    save(drawn, path)


def _curves(points: Iterable[Point], kind: Kind) -> dict[str, list[Point]]:
    """Layer -> its points."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        if point.kind == kind:
            lines.setdefault(point.layer, []).append(point)
    return lines


def _most(line: Iterable[Point]) -> float:
    return max(point.divergence for point in line)
