"""The report's own figures: models, comparisons, latencies, classes, lengths, and what it was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill.core.utils.console import number
from distill.core.utils.words import amount
from distill.workflows.report.schema import Compared, Estimate, Latency, Measured, Report
from distill.workflows.report.views.blocks import Cell, Column, Table

__all__ = [
    "class_table",
    "cost_table",
    "generation_table",
    "latency_table",
    "length_table",
    "machine_table",
    "pairs_table",
    "quality_table",
    "single_call",
]

_MOST_CLASSES = 20


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _large(count: int | None) -> str:
    """``5.3 M``."""
    if count is None:
        return ""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _memory(model: Measured) -> str:
    """The most of a call of one sample."""
    found = min(model.memory, key=lambda one: (one.batch, one.length or 0), default=None)
    return "" if found is None else f"{_bytes(found.peak_bytes)} {found.how}"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value)
    return f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"


def _probability(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def _filled(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Table:
    """A table without the columns that have nothing in any row."""
    kept = [at for at in range(len(columns)) if not at or any(row[at].text for row in rows)]
    return Table(caption, [columns[at] for at in kept], [[row[at] for at in kept] for row in rows])


def single_call(model: Measured, like: Latency | None = None) -> Latency | None:
    """The latency of one sample on the fewest threads; of the same threads and length as another one, where given."""
    found = [one for one in model.latency if one.batch == 1]
    if like is not None:
        found = [one for one in found if (one.threads, one.length) == (like.threads, like.length)]
    return min(found, key=lambda one: (one.threads, one.length or 0), default=None)


def quality_table(report: Report) -> Table:
    """A row a model: what it is, and what it scores."""
    names = [report.monitor, *sorted({name for model in report.models for name in model.scores} - {report.monitor})]
    columns = [Column("model", numeric=False), Column("what", numeric=False), *map(Column, names)]
    rows = []
    for model in report.models:
        what = ", ".join(filter(None, ("constant guess" if model.role == "guess" else model.role, model.compressed)))
        rows.append([Cell(model.key), Cell(what), *(Cell(_estimate(model.scores.get(name))) for name in names)])
    return _filled("quality, with 95 % intervals", columns, rows)


def cost_table(report: Report) -> Table:
    """A row a model: how large it is, and how fast."""
    like = next((call for model in report.models if (call := single_call(model))), None)
    columns = [Column("model", numeric=False)]
    columns += map(Column, ("on disk", "gzipped", "parameters", "not zero", "operations", "memory", "one sample"))
    rows = []
    for model in report.models:
        size, call = model.size, single_call(model, like)
        cells = [model.key, _bytes(size.bytes), _bytes(size.gzipped_bytes), _large(size.parameters)]
        cells += [_large(size.nonzero), _large(size.flops), _memory(model)]
        cells += [f"{call.p50_ms:.2f} ms in {call.runtime}" if call else ""]
        if any(cells[1:]):
            rows.append([Cell(text) for text in cells])
    return _filled("size and time", columns, rows)


def pairs_table(report: Report) -> Table | None:
    """A row a comparison; nothing where none was made."""
    if not report.pairs:
        return None
    names = ("model", "compared with", f"{report.monitor}, difference", "p", "p (McNemar)", "same decisions")
    columns = [Column(name, numeric=at > 1) for at, name in enumerate(names)]
    columns += map(Column, ("tokens taken", "kept", "smaller", "faster"))
    rows = [[Cell(text) for text in _pair(report, pair)] for pair in report.pairs]
    return _filled("in pairs, on the same samples", columns, rows)


def _pair(report: Report, pair: Compared) -> list[str]:
    difference = pair.differences.get(report.monitor)
    shown = ""
    if difference is not None:
        between = "" if difference.low is None else f" ({difference.low:+.3g} to {difference.high:+.3g})"
        shown = f"{difference.value:+.3g}{between}"
    return [
        *(pair.second, pair.first, shown),
        _probability(difference.p if difference else None),
        _probability(pair.mcnemar.p if pair.mcnemar else None),
        "" if pair.agreement is None else f"{100 * pair.agreement:.1f} %",
        "" if pair.acceptance is None else f"{100 * pair.acceptance:.1f} %",
        "" if pair.kept_percent is None else f"{pair.kept_percent:.1f} %",
        "" if pair.smaller is None else f"{pair.smaller:.2f} times",
        "" if pair.faster is None else f"{pair.faster:.2f} times",
    ]


def latency_table(models: Sequence[Measured]) -> Table | None:
    """A row a kind of call, a column a model and runtime; nothing where none was timed."""
    timed = [(model.key, one) for model in models for one in model.latency]
    if not timed:
        return None
    who = list(dict.fromkeys((key, one.runtime) for key, one in timed))
    kinds = sorted({(one.threads, one.batch, one.length or 0) for _, one in timed})
    by = {(key, one.runtime, one.threads, one.batch, one.length or 0): one for key, one in timed}
    rows = [[Cell(_kind(*kind)), *(Cell(_call(by.get((*one, *kind)))) for one in who)] for kind in kinds]
    columns = [Column("call", numeric=False), *(Column(f"{key}, {runtime}") for key, runtime in who)]
    return Table("milliseconds of a call, measured in turns: p50 / p95 / p99, and samples a second", columns, rows)


def _kind(threads: int, batch: int, length: int) -> str:
    words = [amount(threads, "thread"), f"batch of {batch}"]
    return ", ".join([*words, f"{length} tokens"] if length else words)


def _call(one: Latency | None) -> str:
    if one is None:
        return ""
    return f"{one.p50_ms:.2f} / {one.p95_ms:.2f} / {one.p99_ms:.2f}, {number(one.throughput)}"


def generation_table(models: Sequence[Measured]) -> Table | None:
    """A row for each way a language model was timed as it writes."""
    rows = [
        [
            *(Cell(model.key), Cell(one.runtime), Cell(str(one.threads)), Cell(str(one.prompt)), Cell(str(one.tokens))),
            *(Cell(number(one.tokens_per_second)), Cell(f"{one.first_token_ms:.1f}")),
        ]
        for model in models
        for one in model.generation
    ]
    names = ("model", "runtime", "threads", "prompt", "tokens", "tokens a second", "first token, ms")
    return Table("writing", [Column(name, numeric=at > 1) for at, name in enumerate(names)], rows) if rows else None


def class_table(models: Sequence[Measured]) -> Table | None:
    """F1 of each class by every model, the most frequent classes first; nothing where there are none."""
    known = [model for model in models if model.classes]
    if not known:
        return None
    by = {model.key: {one.name: one for one in model.classes} for model in known}
    first = known[0].classes[:_MOST_CLASSES]
    rows = []
    for each in first:
        cells = [Cell(each.name), Cell(f"{each.support:,}")]
        for key in by:
            score = by[key][each.name].f1 if each.name in by[key] else None
            cells.append(Cell("", None) if score is None else Cell(f"{score:.3f}", score))
        rows.append(cells)
    more = (
        f", the {_MOST_CLASSES} most frequent of {len(known[0].classes):,}"
        if len(first) < len(known[0].classes)
        else ""
    )
    columns = [Column("class", numeric=False), Column("labels"), *(Column(f"F1, {key}") for key in by)]
    return Table(f"by class{more}", columns, rows)


def length_table(models: Sequence[Measured], metric: str) -> Table | None:
    """The metric by the length of samples; nothing where that was not looked at."""
    known = [model for model in models if model.lengths]
    if not known:
        return None
    by: Mapping[str, Mapping[tuple[int, int], Estimate | None]] = {
        model.key: {(one.low, one.high): one.scores.get(metric) for one in model.lengths} for model in known
    }
    rows = [
        [
            *(Cell(f"{one.low:,} to {one.high:,}"), Cell(f"{one.samples:,}")),
            *(Cell(_estimate(scores.get((one.low, one.high)))) for scores in by.values()),
        ]
        for one in known[0].lengths
    ]
    columns = [Column("tokens", numeric=False), Column("samples"), *map(Column, by)]
    return Table(f"{metric} by the length of samples", columns, rows)


def machine_table(report: Report) -> Table:
    """What it was measured on, and of what."""
    machine, samples = report.machine, report.samples
    memory = "" if machine.memory_bytes is None else f"{machine.memory_bytes / 2**30:.0f} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    busy = ": times are longer than on a quiet machine" if machine.busy else ""
    made = report.created, f"in {report.seconds:.0f} s", f"by lightning-distill {report.distill}"
    scored = f"{samples.scored:,} of {samples.available:,} of {samples.split}, {samples.predictions:,} predictions"
    facts = {
        "data": samples.source,
        "samples": scored,
        "intervals": f"{samples.draws:,} draws, seed {samples.seed}" if samples.draws else "",
        "processor": f"{machine.processor}, {machine.cores} cores, integers by {machine.isa}, {machine.instructions}",
        "memory": memory,
        "system": machine.system,
        "versions": versions,
        "other work": "" if machine.others is None else f"{machine.others:.2f} cores while it was timed{busy}",
        "made": ", ".join(part for part in made if part),
    }
    rows = [[Cell(name), Cell(text)] for name, text in facts.items() if text]
    return Table("data and machine", [Column("condition", numeric=False), Column("value", numeric=False)], rows)
