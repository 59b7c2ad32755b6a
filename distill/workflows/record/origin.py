"""Whence a recording's signals come: from the teacher of the recipe, which runs, from a server, or from files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from distill.core.model_spec import megabytes, parameter_count
from distill.core.teacher import TeacherSource
from distill.core.token_scores import LogitRows
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.features import Ragged
from distill.data.loader import Collate
from distill.models.pretrained import load_model
from distill.models.processors import load_processor
from distill.models.teachers.hidden_states import HiddenStates, StoredStates
from distill.models.teachers.live import LiveTeacher
from distill.models.teachers.server import Client, ServerTeacher
from distill.models.tokens import by_id
from distill.workflows.job.build import Job
from distill.workflows.record.form import Form, log_unigram
from distill.workflows.record.prompts import check_causal, prompts_of, without_teacher

__all__ = ["Files", "Origin", "Running", "Server"]

_SAME = 0.1
"""Nats a token: half precision and other kernels make less."""

_FAR = 0.05
"""Likewise, of the divergence of stored states from those of the teacher that runs."""


class Origin(ABC):
    """Whence signals come.

    Attributes:
        at_once: Samples that are asked for at once, at least.
        share_of_shard: Of the tokens of a shard, which are what a kill costs: fewer where they are dear.
    """

    at_once: int = 1
    share_of_shard: ClassVar[float] = 1.0

    @abstractmethod
    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe that is built, of the one that is given."""

    @abstractmethod
    def teacher(self, job: Job) -> TeacherSource:
        """Who says it.

        Raises:
            UserError: if there is nobody.
        """

    @property
    @abstractmethod
    def who(self) -> dict[str, Any]:
        """What the teacher is: its name and sizes."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write configuration and tokenizer of the teacher, as far as they are known."""

    def differs(self, before: Mapping[str, Any]) -> str:
        """What shows that a recording that was begun is of another teacher, whose :attr:`who` was ``before``."""
        return ""

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Let go of what is held."""


class Running(Origin):
    """The teacher of the recipe."""

    _source: TeacherSource

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` with its teacher run, as the recipe may name the recording that is about to be made."""
        model = dict(config.get("model") or {})
        if isinstance(teacher := model.get("teacher"), Mapping):
            model["teacher"] = {key: value for key, value in teacher.items() if key != "recorded"}
        return {**config, "model": model}

    def teacher(self, job: Job) -> TeacherSource:
        if job.module.teacher is None:
            raise UserError("there is no teacher to record", key="model.teacher", hint="name one")
        self._source = job.module.teacher
        return self._source

    @property
    def who(self) -> dict[str, Any]:
        models = self._source.models
        return {
            "name": ", ".join(type(model).__name__ for model in models),
            "parameters": sum(map(parameter_count, models)),
            "megabytes": sum(map(megabytes, models)),
        }

    def save(self, folder: Path) -> None:
        config: Any = self._source.models[0].config
        config.save_pretrained(folder)
        if self._source.tokenizers[0] is not None:
            self._source.tokenizers[0].save_pretrained(folder)


@dataclass
class Server(Origin):
    """An OpenAI-compatible server.

    Attributes:
        url: Its address.
        model: As it calls it; the one that it has, if not given.
        form: What is kept; ``topk``.
        api_key_env: The environment variable that has the key; without one, none is sent.
        concurrency: Requests under way at once.
        requests_per_minute: At most, if given.
    """

    url: str
    form: Form
    model: str | None = None
    api_key_env: str | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None

    share_of_shard = 0.25

    def __post_init__(self) -> None:
        if self.form.kind != "topk":
            problem, hint = "a server says how likely the most likely tokens are, and no more", "use --as topk"
            raise UserError(problem, key="--as", value=self.form.kind, hint=hint)
        for option, value in (("--concurrency", self.concurrency), ("--requests-per-minute", self.requests_per_minute)):
            if value is not None and value <= 0:
                raise UserError("must be greater than 0", key=option, value=value, hint="give a larger number")
        key = None
        if self.api_key_env is not None and not (key := os.environ.get(self.api_key_env)):
            problem, hint = "this environment variable is not set", "set it to the key, or leave the option out"
            raise UserError(problem, key="--api-key-env", value=self.api_key_env, hint=hint)
        key = key and key.strip()  # as a file ends in a line break
        if key and not (key.isascii() and key.isprintable()):
            problem, hint = (
                "what it holds is no key (line breaks, or characters beyond ASCII)",
                "set it to the key alone",
            )
            raise UserError(problem, key="--api-key-env", value=self.api_key_env, hint=hint)
        self._client = Client(self.url, key, self.requests_per_minute)
        self.at_once = 4 * self.concurrency  # else many requests would wait for the last of a few

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return without_teacher(config)

    def teacher(self, job: Job) -> TeacherSource:
        check_causal(job.module.task, job.data)
        assert isinstance(job.data, TextData)
        self._tokenizer = job.data.tokenizer
        self._width = max(by_id(self._tokenizer)) + 1
        unigram, k = log_unigram(job.data, self._width), self.form.k
        assert k is not None
        source = ServerTeacher(self._client, self.model, k, self._tokenizer, unigram, self.concurrency)
        self._source = source
        samples, (key, _) = job.data.samples("train"), job.data.longest
        theirs = samples.features.get("teacher_input_ids")
        length = int((theirs if isinstance(theirs, Ragged) else samples).lengths.max())
        if source.longest is not None and length + 2 > source.longest:
            problem = f"samples have up to {length:,} tokens, and the server's {source.model} reads {source.longest:,}"
            hint = f"give {source.longest - 2} or less: the label of the last one and one more are read besides"
            raise UserError(problem, key=key, hint=hint)
        return source

    @property
    def who(self) -> dict[str, Any]:
        first = round(self._source.first, 3)
        return {"name": self._source.model, "server": True, "vocabulary": self._width, "first": first}

    def differs(self, before: Mapping[str, Any]) -> str:
        was = before.get("first")
        if not isinstance(was, float) or abs(was - self._source.first) < _SAME:
            return ""
        now = self._source.first
        return f"the server answers otherwise: {was:.2f} nats a token of the first document, and now {now:.2f}"

    def save(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(folder)

    def close(self) -> None:
        self._client.close()


@dataclass
class Files(Origin):
    """Hidden states that vLLM's connector has written (:mod:`distill.models.teachers.hidden_states`).

    Attributes:
        folder: Of the files.
        form: What is kept; ``hidden``.
        verify: Samples of which the whole teacher is run, and compared.
    """

    folder: Path
    form: Form
    verify: int = 0

    def __post_init__(self) -> None:
        if self.form.kind not in ("hidden", "topk", "sampled"):
            raise UserError("is for one prediction a sample", key="--as", value=self.form.kind, hint="use --as hidden")
        if self.verify < 0:
            raise UserError("must not be negative", key="--verify", value=self.verify, hint="give 1")

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        teacher = (config.get("model") or {}).get("teacher")
        path = teacher.get("path") if isinstance(teacher, Mapping) else teacher
        if not isinstance(path, str):
            problem, hint = "says whose hidden states they are", "name the one teacher that vLLM ran"
            raise UserError(problem, key="model.teacher.path", value=path, hint=hint)
        self._path = path
        return without_teacher(config)

    def teacher(self, job: Job) -> TeacherSource:
        check_causal(job.module.task, job.data)
        states = StoredStates(self.folder)
        lacking, count = states.lacking(prompts_of(job))
        if lacking:
            problem = f"{lacking:,} of {count:,} documents have no hidden states there"
            hint = "have vLLM run the prompts that --write-prompts FILE writes of this recipe"
            raise UserError(problem, key="--from-hidden-states", value=str(self.folder), hint=hint)
        task: Any = job.module.task
        self._tokenizer = load_processor(self._path, "model.teacher.path", task)
        self._source = HiddenStates(states, self._path, task, self._tokenizer)
        if self.verify:
            self._compare(job)
        return self._source

    def _compare(self, job: Job) -> None:
        """Run the whole teacher on a few samples.

        Raises:
            UserError: if it says something else.
        """
        data, task = job.data, job.module.task
        assert isinstance(data, TextData)
        model = load_model(self._path, task.auto_model, "model.teacher.path", head={}, trained=True)  # type: ignore[attr-defined]
        samples = data.samples("train")
        rows = range(min(self.verify, len(samples)))
        batch = task.batch(Collate(data.task, data.tokenizer)([samples[(0, row)] for row in rows]))
        live = LogitRows(LiveTeacher(model, task).evaluate_lazily(batch), batch.mask)
        ours = LogitRows(self._source.evaluate(batch), batch.mask)
        pairs = zip(live.blocks(), ours.blocks(), strict=True)
        sums = [(p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum() for p, q in pairs]
        far = float(torch.stack(sums).sum()) / max(1, len(live))
        print(f"verified: {far:.2g} nats a token from the teacher that runs, on {len(live):,} tokens", flush=True)
        if not far < _FAR:
            problem = f"the teacher that runs says something else ({far:.2g} nats a token)"
            hint = "see that vLLM ran this teacher, and that the last of the layers was num_hidden_layers"
            raise UserError(problem, key="--from-hidden-states", value=str(self.folder), hint=hint)

    @property
    def who(self) -> dict[str, Any]:
        with torch.device("meta"):
            whole = type(self._source.model)(self._source.config)
        return {"name": type(whole).__name__, "parameters": parameter_count(whole), "megabytes": megabytes(whole)}

    def save(self, folder: Path) -> None:
        self._source.config.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
