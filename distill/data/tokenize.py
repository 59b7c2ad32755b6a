"""Tokenizing a split once: the result is cached under a key of everything that it depends on."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.broken_rows import BrokenRows
from distill.core.internals.datasets import fingerprint
from distill.core.processor import identity_of, is_tokenizer
from distill.core.signals import ROUTE
from distill.core.task import Task, TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.progress import due
from distill.core.utils.quiet import quiet_datasets
from distill.data import arrow
from distill.data.features import Samples, main_feature, read_column
from distill.data.labels import Labels
from distill.data.routes import ROLE, route

__all__ = ["check_room", "load_for_batches", "tokenize", "warn_of_length"]


_log = logging.getLogger(__name__)

_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def load_for_batches(path: str, task: TextTask, key: str = "data.tokenizer") -> Any:
    """The tokenizer at ``path``, able to pad; or the image processor.

    Args:
        path: Hub id, folder or run.
        task: That makes batches by it.
        key: Where it stands in the configuration.

    Raises:
        UserError: if there is none, or it cannot do what the task asks of it.
    """
    from distill.models.processors import load_processor  # which takes transformers' time to import

    if not path:
        raise UserError("a tokenizer is missing", key=key, hint="name the one of the student")
    tokenizer = load_processor(path, key, task, pads_with_eos=task.pads_with_eos)
    if not is_tokenizer(tokenizer):
        return tokenizer
    if not tokenizer.is_fast:
        raise UserError("must be a fast tokenizer", key=key, value=path, hint="convert it")
    if tokenizer.pad_token_id is None:
        problem, hint = f"{task.name} needs a tokenizer with a padding token", "set its pad_token and save it again"
        raise UserError(problem, key=key, value=path, hint=hint)
    return tokenizer


def warn_of_length(tokenizer: Any, key: str, length: int) -> None:
    """Say where samples may be longer than the makers of the tokenizer say. How many a model can read, it says itself.

    Args:
        tokenizer: Of transformers.
        key: The setting that bounds the length.
        length: Its tokens.
    """
    if is_tokenizer(tokenizer) and length > (limit := tokenizer.model_max_length):
        _log.warning(
            "%s = %d, and the tokenizer says model_max_length: %d, so its model may not have seen longer texts; "
            "--%s %d keeps to it",
            *(key, length, limit, key, limit),
        )


def tokenize(
    dataset: Any,
    split: str,
    *,
    task: TextTask,
    tokenizer: Any,
    max_length: int | None,
    columns: Mapping[str, str],
    labels: Labels | None,
    routes: Sequence[str] = (),
    seed: int,
) -> Samples:
    """A split's samples, tokenized or read from the cache of an earlier time.

    The cache lies beside those of ``datasets`` (``HF_DATASETS_CACHE``). Its key is made of the rows, the
    columns, the task with its settings and source, the tokenizer and the length.

    Args:
        dataset: The split's rows.
        split: Its use, for the progress bar.
        task: The task.
        tokenizer: The tokenizer.
        max_length: Longer samples are cut to it.
        columns: Role -> column of this split.
        labels: How labels become ids; ``None`` where the task has none.
        routes: What the role ``teacher`` may say: its place among them is the feature :data:`ROUTE` then.
        seed: The run's seed.

    Raises:
        UserError: if nothing is left of the rows, or the cache cannot be written.
    """
    from datasets import config

    check_room(task, tokenizer, max_length, pair="text_pair" in columns)
    # A copy: encoding sets a tokenizer's truncation, which would be saved with the student.
    # Names that no feature has: a column "label" of text would have ``datasets`` keep numbers and ids as text.
    read = {column: f"{column} as read" for column in sorted(set(columns.values()))}
    made = task.encode(copy.deepcopy(tokenizer), max_length)
    encode = _Encode(made, {role: read[one] for role, one in columns.items()}, labels, list(routes))
    key = _hash(
        [
            fingerprint(dataset),
            sorted(columns.items()),
            list(read.values()),  # what an earlier version cached under the columns' own names may be text
            [labels.form, labels.names, labels.hot, [[repr(v), i] for v, i in labels.known.items()]]
            if labels
            else None,
            _source(task, made),
            tokenizer.chat_template if task.turns & columns.keys() else None,
            sorted((name, repr(value)) for name, value in vars(task).items()),
            identity_of(tokenizer),
            max_length,
            *([list(routes)] if routes else []),
            *_outside(task, dataset, columns),
        ]
    )
    cache = Path(config.HF_DATASETS_CACHE) / "distill" / f"{key}.arrow"
    told = _Told(encode, len(dataset), split)
    with quiet_datasets(), _writing(cache.parent):
        cache.parent.mkdir(parents=True, exist_ok=True)
        encoded = (
            dataset.select_columns(list(read))
            .rename_columns(read)
            .map(
                told,
                batched=True,
                remove_columns=list(read.values()),
                cache_file_name=str(cache),
                load_from_cache_file=True,
                new_fingerprint=key,
                desc=f"Tokenizing {split}",
            )
        )
    if len(encoded) == 0:
        nothing = (
            "every text of the split is empty" if task.reads == "tokens" else "no picture of the split can be read"
        )
        raise UserError(nothing, key=f"data.splits.{split}", hint="check its column")
    with _writing(cache.parent):
        return Samples({name: read_column(encoded, name, cache) for name in encoded.column_names}, seed)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Within it ``folder`` is written to; that it cannot be is one message, also where the system names no file."""
    try:
        yield
    except OSError as error:
        ours = error.filename is None or Path(str(error.filename)).is_relative_to(folder)
        if error.errno not in _UNWRITTEN or not ours:
            raise
        problem, hint = f"cannot be written to ({os.strerror(error.errno)})", "make room, or name another folder"
        raise UserError(problem, key="HF_DATASETS_CACHE", value=str(folder), hint=hint) from error


class _Told:
    """``encode``, with a line now and then on how far it is where no terminal shows a bar."""

    def __init__(self, encode: Callable[[dict[str, list[Any]]], dict[str, list[Any]]], rows: int, split: str) -> None:
        self._encode, self._rows, self._split = encode, rows, split
        self._done, self._said = 0, time.monotonic()

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        try:
            out = self._encode(batch)
        except BrokenRows as error:
            hint = "mend or remove them; or leave them out: data.images.skip_broken: true"
            raise error.told(self._done, f"the split {self._split}", "data.columns.image", hint) from None
        self._done += len(next(iter(batch.values())))
        if not sys.stderr.isatty() and due(self._done, self._rows, time.monotonic() - self._said):
            self._said = time.monotonic()
            print(f"tokenizing {self._split}: {self._done:,} of {self._rows:,} rows", file=sys.stderr, flush=True)
        return out


def check_room(task: TextTask, tokenizer: Any, max_length: int | None, *, pair: bool) -> None:
    """Refuse a length that the tokenizer's own tokens fill.

    Raises:
        UserError: saying how many they are.
    """
    if task.reads != "tokens":
        return
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length is not None and not task.packs and max_length <= special:
        problem = f"leaves no room for a text: the tokenizer adds {special} tokens of its own"
        raise UserError(problem, key="data.max_length", value=max_length, hint="raise it")


def _outside(task: TextTask, dataset: Any, columns: Mapping[str, str]) -> list[Any]:
    """Of the cache's key, what tells whether files have changed that rows name: of text nothing."""
    if task.reads == "tokens":
        return []
    return task.outside({role: arrow.column(dataset, one).to_pylist() for role, one in columns.items()})


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _source(task: Task, encode: Any) -> list[str]:
    """The text of the modules that define the task and encode its rows: who edits one gets no stale samples."""
    kinds = [kind for kind in type(task).__mro__ if issubclass(kind, Task) and kind.__module__ != Task.__module__]
    own = sys.modules[type(encode).__module__]
    used = {getattr(value, "__module__", None) or "" for value in vars(own).values()}
    package = (own.__package__ or "").partition(".")[0]
    beside = sorted(name for name in used if name.startswith(f"{package}."))
    names = dict.fromkeys([*(kind.__module__ for kind in kinds), own.__name__, *beside])
    files = [getattr(sys.modules.get(name), "__file__", None) for name in names]
    return [type(task).__qualname__, *(Path(file).read_text(encoding="utf-8") for file in files if file)]


@dataclass(frozen=True)
class _Encode:
    """Columns under the data set's names to features: renames them to roles and labels to ids."""

    encode: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
    columns: dict[str, str]
    labels: Labels | None
    routes: list[str]

    def __call__(self, rows: Any) -> dict[str, list[Any]]:
        roles = {role: list(rows[column]) for role, column in self.columns.items()}
        named = roles.pop(ROLE, None)
        if named is None:
            return self._encoded(roles)
        parts = []  # a task may leave rows out, so those of each teacher are encoded by themselves
        for number, name in enumerate(self.routes):
            places = [place for place, value in enumerate(named) if route(value) == name]
            if places:
                made = self._encoded({role: [values[i] for i in places] for role, values in roles.items()})
                parts.append(made | {ROUTE: [number] * len(made[main_feature(made)])})
        return {name: [value for part in parts for value in part[name]] for name in parts[0]}

    def _encoded(self, roles: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if self.labels is not None:
            roles["label"] = self.labels.ids(roles.get("label", [None] * len(next(iter(roles.values())))))
        made = self.encode(roles)
        main = made[main_feature(made)]
        kept = [i for i, of_row in enumerate(main) if len(of_row)]
        if len(kept) == len(main):
            return made
        return {name: [values[i] for i in kept] for name, values in made.items()}
