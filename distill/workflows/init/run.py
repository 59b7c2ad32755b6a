"""Data looked at, and a YAML file written that says what was found and why."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.config.files import read_file, recipes
from distill.config.yaml import dump
from distill.core.idle_settings import idle
from distill.core.signals import IGNORE
from distill.core.task import TextTask, WritingTask
from distill.core.utils.errors import UserError
from distill.core.utils.files import write
from distill.core.utils.paths import at_home, check_folder
from distill.core.utils.visible import in_line, visible
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.account import doubts
from distill.data.balance import balance
from distill.data.features import Ragged, Samples
from distill.data.raw_data import RawData, read_raw_data
from distill.data.reader import reader_config
from distill.data.sources import Source, load
from distill.data.targets import TARGET
from distill.run.run_id import check_name
from distill.tasks import TASKS, make_task
from distill.workflows.data_overrides import data_overrides
from distill.workflows.init.files import Found, find_files
from distill.workflows.init.guess import Guess, guess
from distill.workflows.init.lengths import chosen_length

__all__ = ["OUTPUT", "init"]

OUTPUT = "my.yaml"
_Why = dict[str, list[str]]
"""Key of the configuration -> what was found and why it is so, in words."""

_HELD_OUT, _MOST_HELD_OUT = 0.1, 2000
_A_LINE = 200  # characters: shorter texts may be lines of one
_SEPARATORS = (",", "\t", ";", "|")
_TEXT_TASKS = [name for name, kind in TASKS.items() if issubclass(kind, TextTask) and kind.reads == "tokens"]
_MAY_SAY = (
    *("columns", "labels", "reader", "document", "max_length", "validation_fraction", "splits"),
    *("prefix", "max_target_length"),
)


def init(
    paths: Sequence[str],
    *,
    task: str | None = None,
    output: str = OUTPUT,
    force: bool = False,
    tokenizer: str | None = None,
    model: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> Path:
    """Look at data, write a configuration that trains on it, and say what was chosen and why.

    Args:
        paths: Files, or folders of them.
        task: The name of a text task; found by the columns if not given.
        output: The YAML file to write.
        force: Replace a file that is there.
        tokenizer: A folder or hub id: tokens are counted with it.
        model: That is to be trained, a folder or hub id: the command that is shown names it, and tokens are counted
            with its tokenizer if no other is given.
        overrides: Keys of ``data`` and YAML texts, which are written as they are given.

    Returns:
        The file.

    Raises:
        UserError: if the data cannot be used as it is, or the file is there. Nothing was written.
    """
    file = _output(output, force)
    if not paths:
        raise UserError("must be given", key="DATA", hint="distill init FOLDER, or its files")
    if task is not None and task not in _TEXT_TASKS:
        raise UserError("is no task on text", key="--task", value=task, hint=f"take {', '.join(_TEXT_TASKS)}")
    given = data_overrides(overrides, _MAY_SAY, "distill init", ", and others to fit")
    found = find_files(paths)
    data: dict[str, Any] = {"files": {role: _short(files) for role, files in found.splits.items()}, **given}
    if "reader" not in data and (separator := _separator(found)):
        data["reader"] = {"sep": separator}
    source = _source(found, data, task)
    rows = source.splits["train"]
    guessed = guess(rows, source.mixed, task, data.get("columns") or {})
    if "validation" not in found.splits and "validation_fraction" not in data and "splits" not in data:
        data["validation_fraction"] = float(f"{min(_HELD_OUT, _MOST_HELD_OUT / len(rows)):.2g}")
    data["columns"] = guessed.columns
    kind = make_task(guessed.task, given.get("labels"))
    assert isinstance(kind, TextTask)
    read = read_raw_data(
        make_task(guessed.task),  # type: ignore[arg-type]
        source.splits,
        mixed=source.mixed,
        splits=data.get("splits"),
        columns=guessed.columns,
        validation_fraction=data.get("validation_fraction"),
        labels=given.get("labels"),
    )
    why = _why(read, [*found.notes, *source.notes], guessed, data)
    if not kind.packs and "max_length" not in data:
        data["max_length"], told = chosen_length(kind, read.splits["train"], guessed.columns, tokenizer or model)
        why["max_length"] = [told]
    elif tokenizer is not None:
        other = "a language model, whose texts are cut into blocks" if kind.packs else "a length that is given"
        hint = "set data.pack_length for longer blocks" if kind.packs else "leave out data.max_length"
        raise idle("--tokenizer", tokenizer, other, hint)
    if TARGET in guessed.columns and "max_target_length" not in data:
        targets = {"text": guessed.columns[TARGET]}
        data["max_target_length"], told = chosen_length(kind, read.splits["train"], targets, tokenizer or model)
        why["max_target_length"] = [told.replace("texts", "targets")]
    write(file, _yaml(guessed.task, data, why, paths, output, model).encode())
    print(_shown(output, guessed.task, why, read, model))
    return file


def _kind(task: str) -> type[TextTask]:
    kind = TASKS[task]
    assert issubclass(kind, TextTask)
    return kind


def _output(output: str, force: bool) -> Path:
    if Path(output).suffix not in (".yaml", ".yml"):
        raise UserError("must end in .yaml", key="--output", value=output, hint=f"--output {output}.yaml")
    file = at_home(output)
    check_folder(file.parent, "--output")
    if os.path.lexists(file) and not force:
        raise UserError("is there already", key="--output", value=output, hint="name another, or add --force")
    if not file.parent.is_dir():
        raise UserError("lies in no folder that is there", key="--output", value=output, hint="make the folder first")
    return file


def _short(files: list[str]) -> str | list[str]:
    return files[0] if len(files) == 1 else files


def _separator(found: Found) -> str | None:
    """What separates the fields of delimited files, if it is not what their ending says."""
    name = found.splits["train"][0]
    suffix = Path(name).suffix.lower()
    if suffix not in (".csv", ".tsv"):
        return None
    with at_home(name).open("rb") as file:
        header = file.readline(1 << 16).decode("utf-8-sig", "replace")
    usual = "\t" if suffix == ".tsv" else ","
    return None if usual in header else next((one for one in _SEPARATORS if one in header), None)


def _source(found: Found, data: Mapping[str, Any], task: str | None) -> Source:
    reader = data.get("reader")
    plain = "line" if task is not None and not _kind(task).packs else "paragraph"
    config = None if reader is None else reader_config(reader)
    return load(None, None, found.splits, config, data.get("document"), plain)


def _why(read: RawData, notes: list[str], guessed: Guess, data: Mapping[str, Any]) -> _Why:
    """What was found."""
    sizes = ", ".join(f"{use} {amount(len(rows), 'row')}" for use, rows in read.splits.items())
    why: _Why = {"task": [guessed.doubt] if guessed.doubt else [], "files": [sizes, *notes, *_shared(read)]}
    if "validation_fraction" in data:
        share = float(data["validation_fraction"])
        why["validation_fraction"] = [
            f"no file is for validation: {100 * share:.2g} % of the training rows are held out, always the same ones"
        ]
    if "reader" in data:
        sep = data["reader"].get("sep")
        why["reader"] = [f"fields are separated by {sep!r}"] if sep else []
    why["columns"] = [*guessed.notes, *(_classes(read) if read.labels is not None else _pieces(read, guessed, data))]
    return why


def _pieces(read: RawData, guessed: Guess, data: Mapping[str, Any]) -> list[str]:
    """A line on texts of a language model that may be pieces of longer ones."""
    text = guessed.columns.get("text")
    if text is None or not _kind(guessed.task).packs or "document" in guessed.columns or "document" in data:
        return []
    rows = read.splits["train"]
    length = pc.mean(pc.utf8_length(arrow.column(rows, text))).as_py() if len(rows) else None
    if length is None or length >= _A_LINE:
        return []
    held = "" if "validation_fraction" not in data else ", with a file of its own for validation"
    return [
        f"each of the {amount(len(rows), 'row')} is a text of its own, of {length:.0f} characters on average; lines of "
        f'one are joined by data.join: "\\n"{held}, or by the column that says what belongs together '
        "(data.columns.document)"
    ]


def _classes(read: RawData) -> list[str]:
    """On classes and their balance, on rows without a label, and on what may have been meant otherwise."""
    assert read.labels is not None
    rows = read.splits["train"]
    lines = []
    if read.labels.column in rows.column_names:
        lines.append(read.labels.says or balance(read.labels, _labels(read, rows)))
    for use, count in read.without_label.items():
        if count:
            what = "a teacher alone says what to learn there" if use == "train" else "they are not judged"
            lines.append(f"{count:,} of {amount(len(read.splits[use]), 'row')} of {use} have no label: {what}")
    return [*lines, *doubts(read, read.labels, read.labels.column)]


def _labels(read: RawData, rows: Any) -> Samples:
    """The labels of a split as they would be tokenized with their texts."""
    assert read.labels is not None
    ids = read.labels.ids(arrow.column(rows, read.labels.column).to_pylist())
    if read.labels.form in ("class", "number"):
        return Samples({"label": np.array(ids, np.int32 if read.labels.form == "class" else np.float32)}, 0)
    lists = [
        np.array([IGNORE] if one is None else one, np.float32 if read.labels.form == "set" else int) for one in ids
    ]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    name = "label" if read.labels.form == "set" else "labels"
    return Samples({name: Ragged(np.concatenate(lists), offsets)}, 0)


def _shared(read: RawData) -> list[str]:
    """A line on validation and test texts that are trained on too."""
    texts = {use: _texts(rows, read.columns[use]) for use, rows in read.splits.items()}
    train = set(texts.pop("train"))
    shared = {use: sum(text in train for text in some) for use, some in texts.items()}
    return [f"{count} of {len(texts[use])} texts of {use} are in train too" for use, count in shared.items() if count]


def _texts(rows: Any, columns: Mapping[str, str]) -> list[Any]:
    found = [arrow.column(rows, columns[role]).to_pylist() for role in ("text", "text_pair") if role in columns]
    return [str(one) for one in zip(*found, strict=True)]


# ---------------------------------------------------------------------- written and shown


def _yaml(
    task: str,
    data: Mapping[str, Any],
    why: Mapping[str, Sequence[str]],
    paths: Sequence[str],
    output: str,
    model: str | None,
) -> str:
    head = [
        visible(f"Made by: distill init {' '.join(paths)}").replace("\n", " "),
        "Correct what is wrong, and train with it (paths are taken from the folder that you are in):",
        *(f"  {line}" for line in _next(task, output, model)),
    ]
    lines = [*_comment(head, ""), *_named(output), "model:", *_comment(why["task"], "  "), f"  task: {task}", "data:"]
    for key, value in data.items():
        lines += _comment(why.get(key, []), "  ")
        lines += [f"  {line}" for line in dump({key: value}).splitlines()]
    return "\n".join(lines) + "\n"


def _named(output: str) -> list[str]:
    """The name of the runs, that of the file; else a recipe that is given before it would name them."""
    stem = Path(output).stem
    try:
        check_name("name", stem)
    except UserError:
        return []
    return dump({"name": stem}).splitlines()


def _comment(texts: Sequence[str], indent: str) -> list[str]:
    width = 110 - len(indent)
    folded = [
        textwrap.wrap(in_line(text), width, break_long_words=False) if indent else [in_line(text)] for text in texts
    ]
    return [f"{indent}# {line}" for lines in folded for line in lines]


def _next(task: str, output: str, model: str | None) -> list[str]:
    """The command that trains on the data, by a recipe where there is one, and how it is given another model."""
    kind = _kind(task)
    lender, options = kind.lends or (task, ())
    recipe = f"{lender}/teacher"
    chosen = recipes().get(recipe)
    given = model or (None if chosen else "FOLDER")
    if chosen is None and f"{lender}/distill" in recipes():  # what it learns is a teacher's
        taught = ["-c", f"{lender}/distill", "-c", output, "--model.teacher", model or "FOLDER", "--id", "student"]
        return [shlex.join(["distill", "fit", *taught])]
    student = [] if given is None else ["--model.student.path" if chosen else "--model.student", given]
    by, ends = (["-c", recipe], []) if chosen else ([], ["--trainer.max_epochs", "3"])
    ends += [] if chosen or _named(output) else ["--name", "mine"]
    lines = [shlex.join(["distill", "fit", *by, "-c", output, *student, *options, *ends, "--id", "teacher"])]
    if chosen and model is None:
        hub = read_file(chosen)["model"]["student"]["path"]
        lines.append(f"it trains {hub}, which the hub has; one that you have: --model.student.path FOLDER")
    if issubclass(kind, WritingTask):
        part = "--model.student.path null --model.student.layers uniform --model.student.num_layers 0.5"
        taught = ["distill", "fit", "-c", f"{task}/distill", "-c", output, "--model.teacher", model or "FOLDER"]
        words = shlex.join([*taught, *part.split(), "--id", "student"])
        lines.append(f"or, with a teacher that you have, into half of its layers: {words}")
    return lines


def _shown(output: str, task: str, why: _Why, read: RawData, model: str | None) -> str:
    roles = ", ".join(f"{role} is {column!r}" for role, column in read.columns["train"].items())
    lines = [f"{output}: {task}; {roles}", *(f"  {in_line(text)}" for texts in why.values() for text in texts)]
    first, *more = _next(task, output, model)
    return visible("\n".join([*lines, f"next: {first}", *more]))
