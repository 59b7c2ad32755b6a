"""What a report comes to, in sentences: a pure function of its figures. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterator

from distill.core.utils.console import number
from distill.workflows.report.rule import shipped, timed
from distill.workflows.report.schema import Compared, Difference, Measured, Report

__all__ = ["faster", "pair_of", "verdict"]

SURE = 0.05
"""The p below which a difference is called one."""

PAYS = 1.05
"""How much faster, or smaller, counts as such: less is noise."""


def verdict(report: Report) -> tuple[str, ...]:
    """What was gained and what lost: first of what is shipped beside the teacher, then what paid and what did not."""
    return tuple(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    for model in shipped(report):
        yield from _gained(report, model)
        yield from _integers(report, model)
        yield from _zeros(model)
    yield from _taught(report)


def _gained(report: Report, model: Measured) -> Iterator[str]:
    """Beside the teacher: smaller, faster, and at what loss."""
    teacher = next((one for one in report.with_role("teacher") if pair_of(report, one, model)), None)
    if teacher is None or (pair := pair_of(report, teacher, model)) is None:
        return
    parts = []
    if teacher.size.bytes and model.size.bytes:
        ratio = teacher.size.bytes / model.size.bytes
        parts.append(f"{ratio:.2f} times smaller" if ratio >= 1 else f"{1 / ratio:.2f} times larger")
    if (times := faster(teacher, model)) is not None:
        runtime, ratio = times
        parts.append(f"{ratio:.2f} times as fast (one sample, one thread, {runtime})")
    said = f"{model.key} is {' and '.join(parts)}, beside the teacher" if parts else f"{model.key} beside the teacher"
    yield f"{said}: {_loss(report, pair, teacher, model)}"


def _loss(report: Report, pair: Compared, teacher: Measured, model: Measured) -> str:
    metric = report.monitor
    if metric not in pair.differences:
        return f"their {metric} is not compared"
    found = pair.differences[metric]
    both = f"{number(model.scores[metric].value)} against {number(teacher.scores[metric].value)}"
    said = f"{metric} {both}, {_apart(report, model, found)}"
    kept = pair.kept_percent
    return said if kept is None else f"{said}; {kept:.1f} % kept of what it has above a constant guess"


def _integers(report: Report, model: Measured) -> Iterator[str]:
    """What rounding alone brought: beside the same student in float, in the same runtime."""
    plain = next((one for one in report.with_role("float") if one.of == model.of), None)
    if model.role != "exported" or plain is None or (times := faster(plain, model)) is None:
        return
    runtime, ratio = times
    teacher = next(iter(report.with_role("teacher")), None)
    of_float = None if teacher is None else faster(teacher, plain, runtime)
    alone = "" if of_float is None else f": in float it is {of_float[1]:.2f} times as fast as the teacher"
    if ratio < PAYS:
        what = "no faster" if ratio > 1 / PAYS else "slower"
        took = " against ".join(f"{timed('latency', one, runtime):.2f} ms" for one in (model, plain))
        yield (
            f"its integers are {what} in {runtime} than the same student in float ({took}); they pay in bytes{alone}"
        )
    else:
        yield f"its integers make it {ratio:.2f} times as fast as the same student in float{alone}"


def _zeros(model: Measured) -> Iterator[str]:
    size = model.size
    if not size.parameters or size.nonzero is None or size.nonzero > 0.97 * size.parameters:
        return
    zero = f"{1 - size.nonzero / size.parameters:.0%} of the weights of {model.key} are zero"
    zipped = ""
    if size.bytes and size.gzipped_bytes:
        zipped = f"; only gzip sees them: {size.gzipped_bytes / size.bytes:.0%} of the bytes are left"
    yield f"{zero}, one by one, which makes nothing faster here{zipped}"


def _taught(report: Report) -> Iterator[str]:
    """Beside the plainly trained twin: whether the teacher was of use."""
    for twin in report.with_role("alone"):
        for model in report.models:
            pair = pair_of(report, twin, model)
            if model.role not in ("distilled", "compressed") or pair is None or report.monitor not in pair.differences:
                continue
            found = pair.differences[report.monitor]
            better = found.value > 0 if report.mode == "max" else found.value < 0
            text = _apart(report, model, found)
            what = f"{model.key}, beside the same student trained without a teacher: {report.monitor} {text}"
            unsure = found.p is None or found.p >= SURE
            yield what if better and not unsure else f"{what}: nothing was gained that these samples show"


def pair_of(report: Report, first: Measured, second: Measured) -> Compared | None:
    """What two models were compared by; ``None`` where they were not."""
    return next((one for one in report.pairs if (one.first, one.second) == (first.key, second.key)), None)


def faster(first: Measured, second: Measured, runtime: str | None = None) -> tuple[str, float] | None:
    """The runtime, and how many times as fast the second model is there: one sample, one thread.

    Args:
        first: A model.
        second: Another.
        runtime: In which; the second's own if not given.
    """
    runtime = runtime or second.runtime
    both = timed("latency", first, runtime), timed("latency", second, runtime)
    return None if both[0] is None or not both[1] else (runtime, both[0] / both[1])


def _apart(report: Report, model: Measured, found: Difference) -> str:
    """A difference by the metric that the task is judged by, in points of a hundred where that is at most 1."""
    score = model.scores[report.monitor].value
    return difference_text(found, points=report.mode == "max" and max(abs(score), abs(score - found.value)) <= 1)


def difference_text(found: Difference, *, points: bool) -> str:
    """``-3.5 points (95 %: -5.9 to -1.2, p = 0.002)``."""
    scale, unit = (100.0, " points") if points else (1.0, "")
    said = f"{scale * found.value:+.3g}{unit}"
    if found.low is None or found.high is None or found.p is None:
        return said
    return f"{said} (95 %: {scale * found.low:+.3g} to {scale * found.high:+.3g}, p = {found.p:.2g})"
