"""A teacher run over a recipe's training data once, and what it says written to disk by sample."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace as replace_in
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from distill.core.signals import IGNORE, Batch, Signals
from distill.core.utils.console import duration, number, wide
from distill.core.utils.errors import UserError
from distill.core.utils.files import read, replace
from distill.core.utils.json_file import Unreadable, read_mapping
from distill.core.utils.paths import at_home, check_folder
from distill.core.utils.progress import spoken, track
from distill.core.utils.quiet import quiet_lightning
from distill.core.utils.replacing import make_folder, replacing
from distill.core.utils.words import amount
from distill.data import TextData
from distill.data.features import Ragged, Samples
from distill.data.identity import identity
from distill.data.loader import Collate
from distill.models.teachers.recorded.index import (
    COMMON,
    INDEX,
    PLAN,
    TEACHER,
    File,
    Index,
    Plan,
    describe,
    different,
    form_of,
    shard_name,
)
from distill.models.teachers.recorded.shards import Kept, counts_of, pack
from distill.workflows.job.build import Job, build, make_trainer
from distill.workflows.record.form import Form
from distill.workflows.record.origin import Origin, Running
from distill.workflows.record.parts import alone, own_device, share_of

__all__ = ["record"]

_SHARD_BYTES, _SHARD_TOKENS = 256 << 20, 2**17
"""The most that a shard holds, and the most tokens that the teacher reads for one: what a kill costs."""

_FIRST = 8
"""Samples of the batch that says how long it takes, and how much is kept."""


def record(
    config: Mapping[str, Any],
    to: str | Path,
    form: Form,
    origin: Origin | None = None,
    *,
    part: str | None = None,
    allow: Sequence[str] = (),
) -> Path:
    """Record a teacher on the training data of ``config``.

    Args:
        config: As :func:`distill.config.files.load` gives it; a recording that it names is not read.
        to: The folder to write to. One that holds a part of the same recording is completed.
        form: What is kept.
        origin: Whence its signals come; the teacher of ``config`` runs, if not given.
        part: ``I/N``: the I-th of N parts, each of which another process records; where torchrun has started several,
            each one takes its own.
        allow: Packages whose classes the configuration may name, besides our own.

    Returns:
        The folder.

    Raises:
        UserError: if the teacher cannot be recorded so, or the folder holds something else.
    """
    check_folder(to, "--to")
    folder, share, origin = at_home(to), share_of(part), origin or Running()
    job = build(origin.config(config), allow=allow, run_id="recording" if share[1] > 1 else None)  # no run is made
    with closing(_Recorder(job, folder, form, origin)) as recorder:
        recorder.begin()
        recorder.record(share)
        recorder.write_index()
    return folder


class _Recorder:
    """Records what a teacher says of the data of ``job`` to ``folder``."""

    def __init__(self, job: Job, folder: Path, form: Form, origin: Origin) -> None:
        self.task, self.folder, self.origin = job.module.task, folder, origin
        if not isinstance(job.data, TextData):
            kind = type(job.data).__name__
            raise UserError("only TextData can be recorded", key="data", value=kind, hint="use TextData")
        if job.data.other_tokenizer is not None:
            problem = "a recording is of the student's tokens, and this teacher reads its own"
            hint = "record without it, with a loss that compares token by token"
            raise UserError(problem, key="data.teacher_tokenizer", value=job.data.teacher_tokenizer, hint=hint)
        if self.task.stochastic:
            problem = f"{self.task.name} draws its inputs anew in each epoch, so what is recorded is of no other"
            raise UserError(
                problem, key="model.task", value=self.task.name, hint="let the teacher run beside the student"
            )
        self.teacher, self.data = origin.teacher(job), job.data
        with quiet_lightning():
            self.trainer: Trainer = make_trainer(
                job, enable_checkpointing=False, callbacks=[], **own_device(job.arguments)
            )
        self.device = self.trainer.strategy.root_device if self.teacher.models else torch.device("cpu")
        self.teacher.to(self.device)
        self.samples: Samples = self.data.samples("train")
        self._limit = self.trainer.limit_val_batches
        self._collate = Collate(self.data.task, self.data.tokenizer)
        first = self._batch(range(min(len(self.samples), _FIRST)))
        signals = self._signals(first)
        self.codec = form.codec(self.teacher, self.task, self.data, _counted(signals, first))
        started = time.perf_counter()  # the first pass makes buffers
        rows = self.codec.encode(self._signals(first), first)
        self._seconds = (time.perf_counter() - started) / int(self.samples.lengths[: first.size].sum())
        self._bytes = sum(t.nbytes for t in rows.values()) / max(1, len(next(iter(rows.values()))))
        self.plan = self._plan()

    def _plan(self) -> Plan:
        labels = self.samples.features.get("labels")
        counted = labels.count(lambda ids: ids != IGNORE) if isinstance(labels, Ragged) else len(self.samples)
        tokens, count = int(self.samples.lengths.sum()), len(self.samples)
        most = min(
            self.origin.share_of_shard * _SHARD_TOKENS / (tokens / count),
            _SHARD_BYTES / (self._bytes * max(1, counted) / count),
        )
        given = {name: value for name, value in identity(self.data).items() if name != "validation"}
        given |= {"teacher": self.teacher.fingerprint, "precision": str(self.trainer.precision)}
        return Plan(given, self.codec.settings, count, max(1, counted), max(1, int(most)), self.origin.who)

    def close(self) -> None:
        """Let go of what the origin holds."""
        self.origin.close()

    # ------------------------------------------------------------------ what lies in the folder

    def begin(self) -> None:
        """Write what is to be recorded, or go on with it where it has been begun.

        Raises:
            UserError: if the folder holds something else, or the disk has too little room.
        """
        make_folder(self.folder, "--to")
        with alone(self.folder):
            if (self.folder / PLAN).is_file():
                self._refuse_other()
            else:
                self._check_room()
                replace(self.folder / PLAN, json.dumps(self.plan.record(), indent=1).encode())
            if not (self.folder / TEACHER).is_dir():
                with replacing(self.folder / TEACHER, "--to") as fresh:
                    self.origin.save(fresh)
            if self.codec.common and not (self.folder / COMMON).is_file():
                replace(self.folder / COMMON, save({k: t.contiguous() for k, t in self.codec.common.items()}))
            elif self.codec.common:  # what is kept is read with what others have found, which may differ in its digits
                self.codec = type(self.codec).read(self.plan.codec, load_file(self.folder / COMMON))

    def _check_room(self) -> None:
        if any(self.folder.iterdir()):
            problem = "holds other files"
            raise UserError(problem, key="--to", value=str(self.folder), hint="name a new folder, or an empty one")
        free, needed = shutil.disk_usage(self.folder).free, int(self._bytes * self.plan.positions)
        if needed > free:
            problem = f"has room for {free / 1e9:,.1f} GB, and the recording takes {needed / 1e9:,.1f} GB"
            hint = "name a folder on another disk, or record in a smaller form"
            raise UserError(problem, key="--to", value=str(self.folder), hint=hint)

    def _refuse_other(self) -> None:
        try:
            before = Plan.read(read_mapping(self.folder / PLAN))
        except (Unreadable, ValueError) as error:
            problem = f"its {PLAN} cannot be used ({error})"
            raise UserError(problem, key="--to", value=str(self.folder), hint="name another folder") from None
        if said := different(*(_flat(plan) for plan in (before, self.plan))):
            problem, hint = f"holds a recording of {said}", "name another folder, or remove this one"
            raise UserError(problem, key="--to", value=str(self.folder), hint=hint)
        if said := self.origin.differs(before.teacher):
            raise UserError(said, key="--to", value=str(self.folder), hint="see that the server has the same model")

    def _lacking(self) -> list[int]:
        """The shards that are not there; what is there under such a name is one of this recording, or is replaced."""
        return [number for number in range(len(self.plan.shards)) if not self._is_there(number)]

    def _is_there(self, number: int) -> bool:
        with suppress(OSError, SafetensorError), safe_open(str(self.folder / shard_name(number)), "pt") as file:
            return bool((file.metadata() or {}).get("plan") == self._stamp)
        return False

    @property
    def _stamp(self) -> str:
        return hashlib.sha256(read(self.folder / PLAN)).hexdigest()

    # ------------------------------------------------------------------ the teacher's pass

    def record(self, share: tuple[int, int]) -> None:
        """Write the shards that are lacking, of those of the part ``share``."""
        lacking = self._lacking()
        mine = [number for number in lacking if number % share[1] == share[0]]
        shards = self.plan.shards
        if len(lacking) < len(shards):
            print(f"resuming: {len(shards) - len(lacking)} of {len(shards)} shards are there", flush=True)
        if not mine:
            return
        print(self._estimate([shards[number] for number in mine]), flush=True)
        stamp, kept = {"plan": self._stamp}, dict[int, tuple[int, Kept]]()
        chunks = [(shard, rows) for shard in mine for rows in self._chunks(shards[shard])]
        for shard, rows in track(chunks, "batches", wide()):
            kept |= self._kept(rows)
            if len(kept) == len(shards[shard]):
                replace(self.folder / shard_name(shard), pack([kept[row] for row in shards[shard]], stamp))
                kept.clear()

    def _estimate(self, shards: Sequence[range]) -> str:
        lengths = self.samples.lengths
        tokens = sum(int(lengths[rows.start : rows.stop].sum()) for rows in shards)
        positions = self.plan.positions * tokens / int(lengths.sum())
        size, seconds = positions * self._bytes, tokens * self._seconds
        what = form_of(self.plan.codec)
        return (
            f"recording {amount(sum(map(len, shards)), 'sample')} as {what}: about {size / 1e6:,.1f} MB "
            f"({self._bytes:,.0f} bytes a position that counts), {duration(seconds)}, in {len(shards)} shards"
        )

    def _chunks(self, shard: range) -> Iterator[list[int]]:
        """A shard's samples in batches of similar length, which depend on nothing but the shard."""
        rows = np.arange(shard.start, shard.stop)
        rows = rows[np.argsort(self.samples.lengths[rows], kind="stable")]
        size = max(self.data.eval_batch_size, self.origin.at_once)
        for start in range(0, len(rows), size):
            yield rows[start : start + size].tolist()

    def _kept(self, rows: Sequence[int]) -> dict[int, tuple[int, Kept]]:
        batch = self._batch(rows)
        encoded = self.codec.encode(self._signals(batch), batch)
        counts = counts_of(batch, len(next(iter(encoded.values()))))
        digests = batch.input_digests.tolist()
        return dict(zip(rows, zip(digests, self.codec.split(encoded, counts), strict=True), strict=True))

    def _batch(self, rows: Sequence[int]) -> Batch:
        batch = self.task.batch(self._collate([self.samples[(0, row)] for row in rows]))
        return batch.to(self.device)

    def _signals(self, batch: Batch) -> Signals:
        with self.trainer.precision_plugin.val_step_context():
            return self.teacher.evaluate_lazily(batch)

    # ------------------------------------------------------------------ the end

    def write_index(self) -> None:
        """Score the teacher, hash the shards and write the index, if all of them are there."""
        if lacking := self._lacking():
            print(f"{len(lacking)} of {len(self.plan.shards)} shards are left to the other parts", flush=True)
            return
        with alone(self.folder):
            if not (self.folder / INDEX).is_file():
                self._index().write(self.folder)
        index = Index.open(self.folder, "--to")
        scored = (
            f"; the teacher's {self.task.monitor}: {number(index.scores[self.task.monitor])}" if index.scores else ""
        )
        print(f"{self.folder}: {describe(index.plan, index.files)}{scored}", flush=True)
        print(f"to train on it: distill fit -c RECIPE --model.teacher.recorded {self.folder}", flush=True)

    def _index(self) -> Index:
        names = [*([COMMON] if self.codec.common else []), *map(shard_name, range(len(self.plan.shards)))]
        files = tuple(File.of(self.folder / name) for name in names)
        validation = str(identity(self.data).get("validation", ""))
        return Index(self.plan, files, self._scores(), validation)

    def _scores(self) -> dict[str, float]:
        """The teacher's metrics on the validation data that a run of the recipe would take."""
        if "validation" not in self.data.uses or not self._limit:
            return {}
        metrics = self.task.metrics()
        for metric in metrics.values():
            metric.to(self.device)
        loader: Any = self.data.val_dataloader()
        limit = self._limit if isinstance(self._limit, int) else int(self._limit * len(loader))
        for raw in spoken(islice(loader, limit), "validation batches", limit, wide()):
            batch = self.task.batch(raw).to(self.device)
            self.task.score(metrics, self._signals(batch), batch)
        return {name: float(metric.compute()) for name, metric in metrics.items()} if limit else {}


def _counted(signals: Signals, batch: Batch) -> Signals:
    """Lazy logits of the positions alone that count."""
    lazy = signals.lazy_logits
    return signals if lazy is None else replace_in(signals, lazy_logits=lazy.at(batch.mask))


def _flat(plan: Plan) -> dict[str, Any]:
    """All that makes two recordings different."""
    kind = plan.codec.get("kind")
    return {**plan.fingerprints, "kind": kind, "codec": dict(plan.codec), "size": plan.per_shard}
