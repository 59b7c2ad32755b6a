"""The model card, ``README.md`` beside a model: what it is, how it was made, how good it is, and how it is loaded.

Its head is what the hub reads (https://huggingface.co/docs/hub/model-cards). It names no place on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from distill.config.files import long_form
from distill.config.yaml import dump
from distill.core.model_spec import parameter_count
from distill.core.record import steps_of, summary
from distill.core.utils.console import number
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import number_at
from distill.core.utils.paths import PACKAGE_PREFIX, find_local
from distill.core.utils.secrets import scrub
from distill.core.utils.version import VERSION
from distill.core.utils.visible import visible
from distill.core.verdict import Verdict
from distill.data.task_file import TaskFile
from distill.export.base import ExportTarget
from distill.run.folder import Run
from distill.workflows.how_to_load import TRANSFORMERS, form_of, how_to_load, opened_by_transformers

__all__ = ["CARD", "card"]

CARD = "README.md"

_METRICS = {
    **{name: name for name in ("accuracy", "f1", "perplexity")},
    **{"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"},
}
"""Our name of a metric -> the hub's."""
_WHO = {"guess": "constant guess", "teacher": "teacher", "alone": "without a teacher", "student": "this model"}
_LICENCE = "Not known here: those of the base model, the teacher and the data decide. Name it by `license` at the top."
_DEPTH = 8
_LAYERS = ("layers", "num_layers", "decoder_layers", "num_decoder_layers")
"""Settings of a student that has some of the layers of another model."""


def card(
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    student: nn.Module,
    data: Any,
    report: Mapping[str, Any] | None = None,
    target: ExportTarget | None = None,
) -> str:
    """The card's text.

    Args:
        config: The run's, resolved.
        result: As ``result.json`` has it; may be empty.
        student: As it was saved.
        data: The run's.
        report: Of an export; nothing for the student's own folder.
        target: Of the export.
    """
    task_file = TaskFile.of(data)
    form = form_of(target)
    parts = [
        f"---\n{dump(_head(config, result, student, task_file, form))}---",
        f"# {visible(str(config.get('name', 'model')))}",
        _what(student, data, task_file, report),
        "## How it was made\n\n" + "\n".join(f"- {line}" for line in _made(config, result, student)),
        "## How good it is\n\n" + _figures(result, report),
        "## How to load it\n\n" + how_to_load(student, task_file, form, target),
        f"## Licence\n\n{_LICENCE}",
    ]
    return str(scrub("\n\n".join(parts))) + "\n"


def _head(
    config: Mapping[str, Any], result: Mapping[str, Any], student: nn.Module, task_file: TaskFile | None, form: str
) -> dict[str, Any]:
    kinds = {step["kind"] for step in steps_of(student)}
    tags = ["lightning-distill", *(["distillation"] if (config.get("model") or {}).get("teacher") else [])]
    tags += ["pruning"] if kinds & {"sparsity", "remove"} else []
    tags += ["quantization"] if "quantize" in kinds else []
    head: dict[str, Any] = {"license": "unknown"}
    if form in TRANSFORMERS:
        head["library_name"] = "transformers" if opened_by_transformers(student, form) else "lightning-distill"
    if form != "student":
        tags.append(form)
    if task_file is not None and (pipeline := task_file.make_task(None).pipeline):
        head["pipeline_tag"] = pipeline
    if base := _base(config):
        head["base_model"] = base
    path = _data(config).get("path")
    if isinstance(path, str) and _on_hub(path):
        head["datasets"] = [path]
    scores = (result.get("scores") or {}).get("student") or {}
    if metrics := [_METRICS[name] for name in scores if name in _METRICS]:
        head["metrics"] = metrics
        head["model-index"] = [_results(config, scores, head.get("datasets"), head.get("pipeline_tag"))]
    return head | {"tags": tags}


def _results(
    config: Mapping[str, Any], scores: Mapping[str, float], datasets: Sequence[str] | None, pipeline: str | None
) -> dict[str, Any]:
    """The scores as the hub lists them beside other models'."""
    data = {"name": datasets[0], "type": datasets[0]} if datasets else {"name": "data of its own", "type": "local"}
    metrics = [{"type": _METRICS[name], "value": round(scores[name], 6)} for name in scores if name in _METRICS]
    found: dict[str, Any] = {"task": {"type": pipeline}} if pipeline else {}
    found |= {"dataset": {**data, "split": "validation"}, "metrics": metrics}
    return {"name": visible(str(config.get("name", "model"))), "results": [found]}


def _what(student: nn.Module, data: Any, task_file: TaskFile | None, report: Mapping[str, Any] | None) -> str:
    count = parameter_count(student)
    size = f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"
    words = [f"A `{type(student).__name__}` of {size} parameters"]
    if report:
        words[0] += f", exported to {report.get('to')}"
    if task_file is not None:
        labels = getattr(data, "labels", None) or []
        listed = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
        named = f", {len(labels)} classes ({listed})" if labels else ""
        words += [f", for {task_file.task}{visible(named)}. Texts are cut to {task_file.max_length} tokens"]
        if written := task_file.settings.get("max_target_length"):
            words.append(f", and those that it was taught to write to {written}")
    return "".join(words) + "."


def _made(config: Mapping[str, Any], result: Mapping[str, Any], student: nn.Module) -> list[str]:
    model = config.get("model") or {}
    teachers = model.get("teacher")
    lines = [f"recipe: {result['recipe']}"] if result.get("recipe") else []
    lines += [f"teacher: {_named(one)}" for one in (teachers if isinstance(teachers, list) else [teachers]) if one]
    source = model.get("student")
    if isinstance(source, Mapping) and any(source.get(name) for name in _LAYERS):
        path = source.get("path")
        lines.append(f"student: layers of {_named(source) if path else 'the teacher'}")
    elif isinstance(source, Mapping) and source.get("config"):
        lines.append("student: from new weights")
    else:
        lines.append(f"student: began as {_named(source)}")
    losses = [_loss(one) for one in (model.get("losses") or ["CrossEntropy"])]
    lines.append(f"losses: {', '.join(losses)}")
    data = _data(config)
    path = data.get("path")
    lines.append(f"data: {_named(path) if path else 'files of its own'}{_rows(result)}")
    if done := summary(steps_of(student)):
        lines.append(f"compressed: {done}")
    return [visible(line) for line in [*lines, f"by lightning-distill {VERSION}, seed {config.get('seed', 0)}"]]


def _rows(result: Mapping[str, Any]) -> str:
    rows, labelled = (number_at(result, "learned_from", name) for name in ("rows", "labelled"))
    some = f" ({labelled:,.0f} with a label)" if labelled else ""
    return "" if rows is None else f", {rows:,.0f} training rows{some}"


def _loss(one: Any) -> str:
    name = str(one.get("class_path") if isinstance(one, Mapping) else one).rsplit(".", 1)[-1]
    weight = (one.get("init_args") or {}).get("weight") if isinstance(one, Mapping) else None
    return f"{name} ({number(weight)})" if isinstance(weight, (int, float)) else name


def _figures(result: Mapping[str, Any], report: Mapping[str, Any] | None) -> str:
    scores = {who: found for who, found in (result.get("scores") or {}).items() if who in _WHO and found}
    names = list(scores.get("student") or {})
    if not names:
        return "It was not scored."
    rows = [f"| validation | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for who, label in _WHO.items():
        if who in scores:
            cells = [number(scores[who][name]) if name in scores[who] else "" for name in names]
            rows.append(f"| {label} | {' | '.join(cells)} |")
    lines = [f"Warning: {line}" for line in Verdict.of_file(result).lines]
    found = (report or {}).get("verified") or {}
    if found:
        lines.insert(0, f"This export's {found['metric']} on the same data: {number(found['exported'])}.")
    return "\n\n".join(["\n".join(rows), *map(visible, lines)])


# ---------------------------------------------------------------------- where things come from


def _data(config: Mapping[str, Any]) -> Mapping[str, Any]:
    data = config.get("data") or {}
    given = data.get("init_args", data) if isinstance(data, Mapping) else {}
    return given if isinstance(given, Mapping) else {}


def _path(one: Any) -> str | None:
    path = one.get("path") if isinstance(one, Mapping) else one
    return path if isinstance(path, str) else None


def _on_hub(path: str) -> bool:
    local = find_local(path) is not None or Path(path).is_absolute() or path.startswith((".", "~", PACKAGE_PREFIX))
    return not local and path.count("/") < 2


def _named(one: Any) -> str:
    """A model or data set by a name that says nothing of this machine."""
    path = _path(one)
    if path is None:
        return "a recording" if isinstance(one, Mapping) and one.get("recorded") else "a module of one's own"
    if _on_hub(path) or path.startswith(PACKAGE_PREFIX):
        return path
    return f"the run {Path(path).parent.name}" if (Path(path) / "config.yaml").is_file() else "a local folder"


def _base(config: Mapping[str, Any]) -> str | None:
    """The hub's model that the student's weights go back to, through the runs that it came from."""
    for _ in range(_DEPTH):
        model = config.get("model") or {}
        student = model.get("student")
        copied = isinstance(student, Mapping) and not (student.get("path") or student.get("config"))
        teacher = model.get("teacher")
        path = _path((teacher[0] if isinstance(teacher, list) and teacher else teacher) if copied else student)
        if path is None or (isinstance(student, Mapping) and student.get("config")):
            return None
        if _on_hub(path):
            return path
        folder = Path(path).parent if Path(path).name == "student" else Path(path)
        try:
            config = long_form(Run.open(folder).config)
        except (UserError, OSError, ValueError):  # no run, or one that cannot be read: its origin is not known
            return None
    return None
