"""A teacher that was recorded, as a source of signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch, Request, Signals
from distill.core.task import TextTask
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home
from distill.core.utils.quiet import quiet_transformers
from distill.models.processors import load_processor
from distill.models.teachers.recorded.codecs import Codec, HiddenCodec, LogitsCodec
from distill.models.teachers.recorded.index import COMMON, TEACHER, Index, describe, different
from distill.models.teachers.recorded.shards import ShardReader, counts_of
from distill.models.teachers.recorded.sparse import SampledCodec, TopKCodec

__all__ = ["CODECS", "RecordedTeacher"]

CODECS: dict[str, type[Codec]] = {codec.kind: codec for codec in (HiddenCodec, LogitsCodec, TopKCodec, SampledCodec)}
"""Kind -> how it is kept."""


class _Unseen(nn.Module):
    """Stands for a model of which only its vocabulary is known."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.config: Any = PretrainedConfig()
        self.config.vocab_size = vocabulary


class RecordedTeacher(TeacherSource):
    """What a teacher said of every training sample, read from disk.

    Args:
        folder: Of a recording that is complete (``distill record``). All of its files are read and compared with
            their hashes.
        task: The task that it was recorded for.
        live: The same teacher, for validation and for students that are made of it; without one, no weights of a
            teacher are loaded but those of its head, and its scores are those of the recording.
        key: Where it stands in the configuration.

    Raises:
        UserError: if the recording is damaged, of another task, or of another teacher than ``live``.
    """

    def __init__(
        self, folder: str | Path, task: TextTask, live: TeacherSource | None = None, key: str = "model.teacher"
    ) -> None:
        self.folder, self._task, self._live, self._key = at_home(folder), task, live, f"{key}.recorded"
        self.index = Index.open(self.folder, self._key)
        self.index.verify(self.folder, self._key)
        now = {"task": task.name} | ({} if live is None else {"teacher": live.fingerprint})
        self._refuse_other(now)
        self._codec = self._read_codec()
        self._reader = ShardReader(self.folder, self.index.plan)
        self._scores: Mapping[str, float] = {}

    def _read_codec(self) -> Codec:
        settings = self.index.plan.codec
        try:
            common = load_file(self.folder / COMMON) if (self.folder / COMMON).is_file() else {}
            return CODECS[settings["kind"]].read(settings, common)
        except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            problem, hint = f"is in a form that cannot be read ({error})", "record it anew"
            raise UserError(problem, key=self._key, value=str(self.folder), hint=hint) from None

    def _refuse_other(self, now: Mapping[str, Any]) -> None:
        if said := different(self.index.plan.fingerprints, now):
            hint = "record it with the recipe of this run: distill record -c RECIPE --to FOLDER --as KIND"
            raise UserError(f"was recorded of {said}", key=self._key, value=str(self.folder), hint=hint)

    @property
    def models(self) -> list[nn.Module]:
        return [] if self._live is None else self._live.models

    @cached_property
    def tokenizers(self) -> list[Any]:
        if self._live is not None:
            return self._live.tokenizers
        return [load_processor(str(self.folder / TEACHER), self._key, self._task)]

    @cached_property
    def spec(self) -> ModelSpec:
        """Of the teacher's configuration; without weights, unless it is there."""
        if self._live is not None:
            return self._live.spec
        if self.index.plan.teacher.get("server"):  # of which no more is known
            return ModelSpec(_Unseen(int(self.index.plan.teacher["vocabulary"])), self._key)
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(self.folder / TEACHER, trust_remote_code=False)
            return ModelSpec(self._task.auto_model.from_config(config), self._key)

    @property
    def fingerprint(self) -> str:
        """Of the index, which holds the hashes of all else."""
        return self.index.sha256

    @property
    def described(self) -> str:
        plan = self.index.plan
        size, who = plan.teacher.get("parameters", 0), plan.teacher.get("name", "a teacher")
        who = f"{who} of a server" if plan.teacher.get("server") else f"{who} of {size / 1e6:,.1f} M parameters"
        return f"{who}, recorded in {self.folder}: {describe(plan, self.index.files)}"

    def meet(self, data: Mapping[str, Any]) -> None:
        self._refuse_other(data)
        known = self._live is None and data.get("validation") == self.index.validation
        self._scores = self.index.scores if known else {}

    @property
    def known_scores(self) -> Mapping[str, float] | None:
        return None if self._live is not None else self._scores

    def check_losses(self, losses: Sequence[Any]) -> None:
        for number, loss in enumerate(losses):
            request: Request = loss.needs.teacher
            if request and request != Request(logits=True):
                problem = "reads hidden states, attentions or taps of the teacher, and the recording holds logits"
                hint = "use losses on logits, or leave out model.teacher.recorded, so that the teacher runs"
                raise UserError(problem, key=f"model.losses.{number}", value=type(loss).__name__, hint=hint)
            if request and self._codec.sampled and not loss.takes_samples:
                problem = "would be wrong of a teacher's sampled tokens, which are right in the mean alone"
                hint = "use HintonKL with temperature 1, or record as hidden or topk"
                raise UserError(problem, key=f"model.losses.{number}", value=type(loss).__name__, hint=hint)

    @property
    def lazy(self) -> bool:
        return self._codec.lazy

    def signals(self, batch: Batch, request: Request) -> Signals:
        if not request:
            return Signals()
        if batch.ids is None and self._live is not None:  # what a student wrote
            return self._live.signals(batch, replace(request, lazy=request.lazy and self._live.lazy))
        if batch.ids is None:
            problem, hint = "its samples are known by their ids, and these batches have none", "set Batch.ids"
            raise UserError(problem, key=self._key, value=str(self.folder), hint=hint)
        try:
            rows, counts, digests = self._reader.read(batch.ids)
        except IndexError as error:
            raise self._other_sample(int(str(error)), "was not recorded") from None
        changed = (digests != batch.input_digests.cpu()).nonzero().flatten().tolist()
        if changed:
            raise self._other_sample(batch.ids[changed[0]], "has other inputs than when it was recorded")
        host = batch if batch.on_host is None else batch.on_host
        if host.mask is not None and host.mask.device.type == "cpu":
            counted = counts_of(host, sum(counts))
            if counted != counts:
                place = next(i for i, (one, other) in enumerate(zip(counted, counts, strict=True)) if one != other)
                raise self._other_sample(batch.ids[place], "has other positions that count than when it was recorded")
        return self._codec.decode(rows, counts, batch, request)

    def _other_sample(self, i: int, problem: str) -> UserError:
        hint = "record the data that the run trains on, without augmentation"
        return UserError(f"sample {i} {problem}", key=self._key, value=str(self.folder), hint=hint)

    def evaluate(self, batch: Batch) -> Signals:
        return self._running().evaluate(batch)

    def evaluate_lazily(self, batch: Batch) -> Signals:
        return self._running().evaluate_lazily(batch)

    def _running(self) -> TeacherSource:
        if self._live is None:
            problem, hint = "says nothing of other data", "give the teacher's path too"
            raise UserError(problem, key=self._key, value=str(self.folder), hint=hint)
        return self._live

    def to(self, device: torch.device | str) -> Self:
        self._codec.to(device)
        if self._live is not None:
            self._live.to(device)
        return self

    def state_dict(self, own: bool = False) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor], of_all: Mapping[str, Tensor] | None = None) -> None:
        """Nothing is remembered."""
