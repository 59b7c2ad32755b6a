"""A report in the terminal, in the style of a run's final table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from distill.core.retention import percent
from distill.core.utils.console import duration, number, plain_table, wide
from distill.core.utils.words import amount
from distill.export.summary import megabytes
from distill.workflows.report.rule import timed
from distill.workflows.report.schema import Compared, Latency, Measured, Report

__all__ = ["show"]

_CLASSES = 8
_FIRST_OF_SIZE = "parameters"


def show(report: Report, console: Console | None = None) -> None:
    """Print the tables, and what they come to."""
    console = console or wide()
    _models(report, console)
    _latencies(report, console)
    _generation(report, console)
    _classes(report, console)
    _lengths(report, console)
    for line in report.verdict:
        console.print(escape(line), soft_wrap=True)
    for line in [*_said(report), *(f"note: {note}" for note in report.notes)]:
        console.print(escape(line), soft_wrap=True)


def _models(report: Report, console: Console) -> None:
    pairs = {pair.second: pair for one in report.with_role("teacher") for pair in report.pairs if pair.first == one.key}
    names = list(dict.fromkeys(name for model in report.models for name in model.scores if model.role != "guess"))
    rows = {model.key: _cells(report, model, pairs.get(model.key), names) for model in report.models}
    first = list(rows[report.models[0].key]).index(_FIRST_OF_SIZE)
    for title, part in ((", ".join(report.runs), slice(first)), ("", slice(first, None))):
        _table(title, {key: dict(list(cells.items())[part]) for key, cells in rows.items()}, console)


def _table(title: str, rows: Mapping[str, Mapping[str, str]], console: Console) -> None:
    """A row a model; columns and rows without anything are left out."""
    columns = [name for name in next(iter(rows.values())) if any(cells[name] for cells in rows.values())]
    table = plain_table(title)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for key, cells in rows.items():
        if any(cells.values()):
            table.add_row(escape(key), *(cells[name] for name in columns))
    console.print(table)


def _cells(report: Report, model: Measured, pair: Compared | None, names: Sequence[str]) -> dict[str, str]:
    """Column -> cell: the metric that the task is judged by first."""
    size, monitor = model.size, report.monitor
    calibrated = model.calibration
    return {
        monitor: _score(model, monitor),
        "95 %": _interval(model, monitor),
        **{name: _score(model, name) for name in names if name != monitor},
        "agreement": "" if pair is None or pair.agreement is None else number(pair.agreement),
        "acceptance": "" if pair is None or pair.acceptance is None else number(pair.acceptance),
        "kept": "" if pair is None or pair.kept_percent is None else percent(pair.kept_percent),
        "ECE": "" if calibrated is None else number(calibrated.ece),
        "parameters": "" if size.parameters is None else f"{size.parameters:,}",
        "not zero": _nonzero(model),
        "size": "" if size.bytes is None else megabytes(size.bytes),
        "gzipped": "" if size.gzipped_bytes is None else megabytes(size.gzipped_bytes),
        "GFLOP": "" if size.flops is None else number(size.flops / 1e9),
        "ms": _ms(model),
    }


def _score(model: Measured, name: str) -> str:
    return number(model.scores[name].value) if name in model.scores else ""


def _interval(model: Measured, name: str) -> str:
    found = model.scores.get(name)
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{number(found.low)} to {number(found.high)}"


def _nonzero(model: Measured) -> str:
    size = model.size
    if size.nonzero is None or not size.parameters:
        return ""
    return f"{size.nonzero / size.parameters:.1%}"


def _ms(model: Measured) -> str:
    found = timed("latency", model, model.runtime)
    return "" if found is None else f"{found:.2f}"


def _latencies(report: Report, console: Console) -> None:
    kinds = list(dict.fromkeys(_kind(one) for model in report.models for one in model.latency))
    if not kinds:
        return
    table = plain_table("milliseconds of a call: median, 95 and 99 of 100; and samples a second")
    for name in ("runtime", "threads", "batch", "tokens", "", "p50", "p95", "p99", "samples/s", "calls"):
        table.add_column(name, justify="right" if name not in ("runtime", "") else "left")
    for kind in sorted(kinds, key=lambda one: (one[0], one[1], one[2], one[3] or 0)):
        for model in report.models:
            for one in model.latency:
                if _kind(one) == kind:
                    runtime, threads, batch, length = kind
                    cells = [f"{part:.2f}" for part in (one.p50_ms, one.p95_ms, one.p99_ms)]
                    where = (runtime, str(threads), str(batch), "" if length is None else str(length))
                    table.add_row(*where, escape(model.key), *cells, number(one.throughput), str(one.calls))
    console.print(table)


def _kind(one: Latency) -> tuple[str, int, int, int | None]:
    return one.runtime, one.threads, one.batch, one.length


def _generation(report: Report, console: Console) -> None:
    rows = [(model, one) for model in report.models for one in model.generation]
    if not rows:
        return
    table = plain_table("written greedily")
    for name in ("", "runtime", "threads", "prompt", "tokens", "first token, ms", "tokens/s"):
        table.add_column(name, justify="left" if name in ("", "runtime") else "right")
    for model, one in rows:
        counts = (str(one.threads), str(one.prompt), str(one.tokens))
        speed = f"{one.first_token_ms:.1f}", number(one.tokens_per_second)
        table.add_row(escape(model.key), one.runtime, *counts, *speed)
    console.print(table)


def _classes(report: Report, console: Console) -> None:
    models = [model for model in report.models if model.classes and model.role != "float"]
    if not models:
        return
    names = [one.name for one in models[0].classes]
    table = plain_table("F1 by class")
    for name in ("", "labels", *(model.key for model in models)):
        table.add_column(escape(name), justify="left" if not name else "right", overflow="fold")
    for name in names[:_CLASSES]:
        found = [next((one for one in model.classes if one.name == name), None) for model in models]
        cells = ["" if one is None or one.f1 is None else number(one.f1) for one in found]
        table.add_row(escape(name), f"{found[0].support:,}" if found[0] is not None else "", *cells)
    console.print(table)
    if len(names) > _CLASSES:
        console.print(f"{len(names) - _CLASSES} more classes are in report.json", soft_wrap=True)


def _lengths(report: Report, console: Console) -> None:
    models = [model for model in report.models if model.lengths and model.role != "float"]
    if not models:
        return
    table = plain_table(f"{report.monitor} by length")
    for name in ("tokens", "samples", *(model.key for model in models)):
        table.add_column(escape(name), justify="right", overflow="fold")
    for place, one in enumerate(models[0].lengths):
        cells = [number(model.lengths[place].scores[report.monitor].value) for model in models]
        table.add_row(f"{one.low} to {one.high}" if one.low < one.high else str(one.low), f"{one.samples:,}", *cells)
    console.print(table)


def _said(report: Report) -> Sequence[str]:
    """Of what these figures are."""
    samples, machine = report.samples, report.machine
    every = f" of {samples.available:,}" if samples.scored < samples.available else ""
    lines = [f"{name}: {meaning}" for name, meaning in report.means.items()]
    lines += [f"{one.key}: {note}" for one in report.models for note in one.notes]
    lines.append(
        f"data: {samples.split} of {samples.source}, {amount(samples.scored, 'sample')}{every} "
        f"({samples.predictions:,} predictions, {samples.fingerprint}); "
        f"intervals: {samples.draws:,} draws, seed {samples.seed}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    lines.append(f"machine: {machine.processor}, {cores}, {machine.isa} ({machine.instructions}); {versions}")
    if machine.busy and machine.others is not None:
        busy = f"{machine.others:.1f} of its cores were at work for other processes"
        lines.append(f"warning: {busy} while it was timed: read the times as ratios")
    lines.append(f"measured in {duration(report.seconds)}")
    return lines
