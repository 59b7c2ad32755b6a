"""What a run came to: the metrics of teacher and student, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from distill.compression.coverage import Coverage, coverage_of
from distill.core.expectation import expectation
from distill.core.model_spec import megabytes, parameter_count
from distill.core.record import steps_of, summary
from distill.core.retention import kept_of, percent, ratio
from distill.core.utils.console import duration, number, plain_table, wide
from distill.core.utils.json_file import number_at
from distill.core.utils.words import amount
from distill.core.verdict import Verdict
from distill.models.saved_student import saved_megabytes
from distill.training.module import Distillation

__all__ = ["make_result", "outcome", "show_result", "show_verdict"]

_BY_CONTEXT = ("perplexity", "bits_per_byte")


def outcome(module: Distillation, scores: Mapping[str, float], measured: Mapping[str, Any]) -> dict[str, Any]:
    """What a :class:`~distill.core.verdict.Verdict` is of: ``monitor``, ``mode``, ``scores`` and ``measured``."""
    rest = {name: value for name, value in measured.items() if name != "guess"}
    found = {"teacher": dict(module.teacher_scores), "student": dict(scores), "guess": measured.get("guess", {})}
    known = {who: theirs for who, theirs in found.items() if theirs or who != "guess"}
    return {"monitor": module.task.monitor, "mode": module.task.mode, "scores": known, "measured": rest}


def make_result(
    module: Distillation, scores: Mapping[str, float], evidence: Mapping[str, Any], saved: Path, **more: Any
) -> dict[str, Any]:
    """The metrics of a finished run, as ``result.json`` holds them.

    Args:
        module: With the student as it is saved.
        scores: The student's, by metric; ``agreement`` among them.
        evidence: What else its validation measured, as :attr:`Evidence.found`.
        saved: The student's folder, whose files of weights are its size.
        more: Whatever else is to be recorded; ``measured`` adds to the evidence, ``beside`` is another run's scores,
            ``completions`` what texts that were written scored.
    """
    monitor, mode, teacher = module.task.monitor, module.task.mode, module.teacher_scores
    result = outcome(module, scores, {**evidence, **more.pop("measured", {})}) | {
        "parameters": {"student": parameter_count(module.student)},
        "megabytes": {"student": saved_megabytes(saved)},
        "compressed": summary(steps_of(module.student)),
    }
    if means := {name: what for name, what in module.task.means().items() if name in scores}:
        result["means"] = means
    if steps := steps_of(module.student):
        result["coverage"] = coverage_of(module.student, steps).record()
    if module.teacher is not None and module.teacher.models:
        result["parameters"]["teacher"] = sum(parameter_count(model) for model in module.teacher.models)
        result["megabytes"]["teacher"] = sum(megabytes(model) for model in module.teacher.models)
    if written := more.pop("completions", None):
        for who, found_scores in written.pop("scores").items():
            result["scores"][who] = result["scores"].get(who, {}) | found_scores
        result["means"] = result.get("means", {}) | written.pop("means")
        result["completions"] = written
    if beside := more.pop("beside", None):
        result["beside"] = beside["run"]
        result["scores"] |= {"alone": beside["scores"]} if beside["scores"] else {}
    result["kept_percent"], result["ratio_percent"] = {}, {}
    if monitor in scores and monitor in teacher:
        result["kept_percent"][monitor] = kept_of(result)
        result["ratio_percent"][monitor] = ratio(scores[monitor], teacher[monitor], mode)
    return result | more | {"verdict": Verdict.of(result).lines}


def show_result(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the final table, with a row for what looks at no input, and what must be said of it."""
    console = console or wide()
    rows = {"guess": "constant guess", "teacher": "teacher", "alone": "without a teacher", "student": "student"}
    scored = [who for who in rows if who == "student" or result["scores"].get(who)]
    names = list(result["scores"]["student"])
    table = plain_table(f"{result['name']} {result['id']}")
    table.add_column("")
    columns = {"kept": "teacher" in scored, "parameters": True, "MB": "megabytes" in result}
    columns["compressed"] = bool(result.get("compressed"))
    columns["train time"] = "train_seconds" in result
    columns = {column: there for column, there in columns.items() if there}
    for name in [*names, *columns]:
        table.add_column(name, justify="right", overflow="fold")
    for who in scored:
        scores, mine = result["scores"][who], _cells(result, who)
        cells = [number(scores[name]) if name in scores else "" for name in names]
        table.add_row(rows[who], *cells, *(mine.get(column, "") for column in columns))
    console.print(table)
    _show_contexts(result, console)
    show_verdict(result, console)


def _show_contexts(result: Mapping[str, Any], console: Console) -> None:
    """Print how a language model does by the length of its context, where the data has several."""
    found = (result.get("measured") or {}).get("by_context")
    if not isinstance(found, Mapping) or len(found["student"]["context"]) < 2:
        return
    table = plain_table()
    for name in ("tokens of context", "predictions", *(f"{who}: {name}" for who in found for name in _BY_CONTEXT)):
        table.add_column(name, justify="right")
    columns = {who: {context: place for place, context in enumerate(one["context"])} for who, one in found.items()}
    for place, context in enumerate(found["student"]["context"]):
        cells = [context, f"{found['student']['predictions'][place]:,}"]
        for who, one in found.items():
            at = columns[who].get(context)
            values = [None if at is None or name not in one else one[name][at] for name in _BY_CONTEXT]
            cells += ["" if value is None else number(value) for value in values]
        table.add_row(*cells)
    console.print(table)


def _cells(result: Mapping[str, Any], who: str) -> dict[str, str]:
    """What the table says of one row besides its scores."""
    parameters = result["parameters"].get(who)
    cells = {} if parameters is None else {"parameters": f"{parameters:,}"}
    if (size := number_at(result.get("megabytes") or {}, who)) is not None:
        cells["MB"] = number(size)
    if who == "student":
        cells |= {"kept": percent(kept_of(result)), "compressed": str(result.get("compressed", ""))}
        cells["train time"] = duration(result.get("train_seconds", 0.0))
    return cells


def _coverage(coverage: Coverage) -> list[str]:
    """What the compressions reached, and what this comes to over all weights."""
    lines = [str(coverage)]
    if coverage.sparsity is not None:
        pruned = coverage.by.get("sparsity", 0)
        among = f"{100 * coverage.sparsity * coverage.weights / pruned:.3g} % of the pruned weights, " if pruned else ""
        lines.append(f"zero: {among}{100 * coverage.sparsity:.3g} % of all")
    return lines if coverage.bits is None else [*lines, f"bits: {number(coverage.bits)} a weight, on average over all"]


def _stored(result: Mapping[str, Any]) -> list[str]:
    """Why a student that was pruned or rounded is no smaller in its folder, and what is."""
    size, count = number_at(result.get("megabytes") or {}, "student"), result["parameters"].get("student")
    if size is None or count is None or size < 3.9e-6 * count or not {"sparsity", "bits"} & result["coverage"].keys():
        return []
    smaller = "distill export RUN --to onnx-int8" if "bits" in result["coverage"] else "distill quantize RUN"
    return [f"MB: student/ keeps every weight as a float of 32 bits, zeros and rounded ones too; smaller: {smaller}"]


def _completions(written: Mapping[str, Any]) -> str:
    """Of how many answers these scores are, and of which length."""
    ended = written.get("unfinished") or {}
    cut = " and ".join(f"{count} of the {who}'s" for who, count in ended.items() if count)
    said = f"; {cut} came to no end" if cut else ""
    return f"completions: {amount(written['prompts'], 'answer')} of up to {written['max_new_tokens']} tokens{said}"


def show_verdict(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what the table's rows are, and what must be said of the outcome."""
    console, lines = console or wide(), []
    if result.get("compressed") and "coverage" in result:
        lines += [*_coverage(Coverage(**result["coverage"])), *_stored(result)]
    means = result.get("means")
    lines += [f"{name}: {meaning}" for name, meaning in means.items()] if isinstance(means, Mapping) else []
    measured = result.get("measured")  # which a run of an older version has not
    if guessed := measured.get("guess_is") if measured else None:
        lines.append(f"constant guess: {guessed}")
    if isinstance(written := result.get("completions"), Mapping):
        lines.append(_completions(written))
    if "beside" in result:
        lines.append(f"without a teacher: {result['beside'] or 'no such run was found; name one by --beside RUN'}")
    if expected := expectation(result):
        lines.append(f"to expect: {expected}")
    for line in [*lines, *(f"warning: {line}" for line in Verdict.of_file(result).lines)]:
        console.print(escape(line), soft_wrap=True)
