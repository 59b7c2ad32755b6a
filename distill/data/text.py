"""Rows of any source for any task on texts or pictures, as a Lightning data module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal

import torch

from distill.core.images import ImageSettings
from distill.core.processor import identity_of
from distill.core.utils.errors import UserError
from distill.data import language
from distill.data.account import doubtful_scores, said, sizes, statistics, token_counts, unread
from distill.data.bounds import check_numbers, check_packing, refuse_idle_settings
from distill.data.features import Samples
from distill.data.images import check_settings
from distill.data.labels import Outputs
from distill.data.processing import made_processor, read_source
from distill.data.raw_data import RawData, read_raw_data
from distill.data.reader import ReaderOptions
from distill.data.repeats import repeated_pictures
from distill.data.row_loaders import RowLoaders
from distill.data.sources import Source, find_splits, set_aside
from distill.data.targets import cut_targets, has_targets, longest_target
from distill.data.tokenize import load_for_batches, tokenize
from distill.tasks import DEFAULT, Task, TextTask, make_task

__all__ = ["TextData"]


class TextData(RowLoaders):
    """Rows of text, tokenized once, or of pictures, in batches that are a function of seed, epoch and row alone.

    Batches are the same for any number of workers and any restart; see
    :class:`~distill.data.batches.TrainingBatches`. Works without a trainer too: call ``setup("fit")`` and take
    the loaders; :attr:`epoch` then says which epoch ``train_dataloader()`` yields.

    Args:
        path: Hub id, local folder, or ``distill:stdlib`` (the source of Python's standard library).
        name: Configuration of a hub data set (``sst2`` of ``glue``).
        files: Split -> csv, tsv, json, jsonl, parquet or txt files; instead of ``path``.
        reader: How csv, tsv, jsonl and txt files are read (``sep``, ``quoting``, ``encoding``, ``na_values``, ...).
        document: What a document of a .txt file is: ``paragraph`` (what stands between blank lines; the default for
            language models that pack), ``file``, or ``line`` (else the default).
        task: Name of a text task, or a task of your own.
        tokenizer: Hub id, folder, run, or ``distill:quickstart/tokenizer``; of pictures, where the image processor is.
        columns: Role (``text``, ``text_pair``, ``label``) -> column; recognized by their names if not given. One for
            the role ``teacher`` says which of several teachers teaches a row.
        labels: Names of the classes in the order of their ids, where they are not to be found in the data: a teacher
            has them in another order, or has more of them.
        join: Rows are pieces of one text (lines of a book), joined by this. With a column for the role ``document``
            those next to each other are that have one value there; without, all of a split.
        splits: Use (``train``, ``validation``, ``test``) -> split; recognized by their names if not given.
        validation_fraction: Share of the training rows taken for validation, always the same ones.
        train_samples: Train on so many rows (documents, before they are packed), always the same ones.
        max_length: Most tokens of a sample; longer ones are cut, or read in windows, which share ``doc_stride`` tokens.
        doc_stride: Of tasks that read windows; a third of ``max_length`` if not given, at most 128.
        batch_size: Samples of a training batch on one device.
        eval_batch_size: Samples of a validation or test batch on one device.
        bucketing: Put samples of similar length into a batch, for less padding.
        pack_length: Causal language modelling: join documents and cut them into blocks of so many tokens
            (256 if not given); 0 makes each document a sample of its own. Prompts and chats are not cut to fill a
            block (1,024 if not given): what is longer than one loses its end.
        eval_stride: Validate by windows of a block's length that begin so many tokens apart, each judged by what no
            earlier one has seen: the perplexity of long texts is then not that of blocks that begin anew.
        isolate_documents: Hide documents that share a block from each other.
        completion_only_loss: Whether completions, or the assistant's turns, count alone: the default; ``false``: all.
        chat_template: A file with the template of chats, in place of the tokenizer's; ``false``: prompts and
            completions are joined as they are.
        add_special_tokens: Whether texts stand between BOS and EOS; by default those that have no special token there.
        teacher_system: What the teacher is told before each prompt or chat, and the student is not: it learns to answer
            as if it were (context distillation).
        prefix: Of tasks whose rows have a text to be written: what stands before each that is read (``"summarize: "``).
        max_target_length: Most tokens of a text that is to be written; longer ones are cut (128 if not given).
        teacher_tokenizer: That of a teacher with other tokens than the student: it then reads each text in its own, and
            losses compare the two where both have read the same (:mod:`distill.losses.across`).
        images: How pictures are read, and changed in training.
        seed: Seed of the order of samples and of random masking.
        num_workers: Processes that make batches; 0 makes them in the training process.

    Attributes:
        outputs: Finds the classifier that the labels are for; beside one, integers written as floats are classes.
    """

    def __init__(
        self,
        path: str | None = None,
        name: str | None = None,
        files: dict[str, str | list[str]] | None = None,
        reader: ReaderOptions | None = None,
        document: Literal["paragraph", "file", "line"] | None = None,
        task: str | Task = DEFAULT,
        tokenizer: str = "",
        columns: dict[str, str] | None = None,
        labels: list[str | int | bool] | None = None,
        join: str | None = None,
        splits: dict[str, str] | None = None,
        validation_fraction: float | None = None,
        train_samples: int | None = None,
        max_length: int = 128,
        doc_stride: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        bucketing: bool = True,
        pack_length: int | None = None,
        eval_stride: int | None = None,
        isolate_documents: bool = True,
        completion_only_loss: bool | None = None,
        chat_template: str | bool | None = None,
        add_special_tokens: bool | None = None,
        teacher_system: str | None = None,
        teacher_tokenizer: str | None = None,
        prefix: str | None = None,
        max_target_length: int | None = None,
        images: ImageSettings | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.path, self.name, self.files, self.tokenizer_path = path, name, files, tokenizer
        self.columns, self.splits, self.validation_fraction = columns, splits, validation_fraction
        self.train_samples, self.max_length, self.pack_length = train_samples, max_length, pack_length
        self.batch_size, self.eval_batch_size, self.bucketing = batch_size, eval_batch_size, bucketing
        self.isolate_documents, self.seed, self.num_workers = isolate_documents, seed, num_workers
        self.reader, self.document, self.chat_template, self.join = reader, document, chat_template, join
        self.eval_stride, self.teacher_system, self.teacher_tokenizer = eval_stride, teacher_system, teacher_tokenizer
        self.completion_only_loss, self.add_special_tokens = completion_only_loss, add_special_tokens
        self.prefix, self.max_target_length = prefix, max_target_length
        self._task, self._names, self.doc_stride, self.images, self.epoch = task, labels, doc_stride, images, 0
        self.outputs: Callable[[], Outputs | None] = lambda: None
        self._samples: dict[str, Samples] = {}
        self._left_out: dict[str, int] = {}
        self._cut: dict[str, tuple[int, int] | None] = {}
        self._aligned: list[str] = []

    @cached_property
    def _source(self) -> Source:
        """The rows as they were read."""
        return read_source(self, self._checked_task())

    @cached_property
    def _rows(self) -> RawData:
        """The rows of every split, checked, and what their columns mean."""
        return read_raw_data(
            self._checked_task(),
            self._source.splits,
            mixed=self._source.mixed,
            splits=self.splits,
            columns=self.columns,
            validation_fraction=self.validation_fraction,
            train_samples=self.train_samples,
            labels=self._names,
            outputs=self.outputs,
            join=self.join,
        )

    def _checked_task(self) -> TextTask:
        check_numbers(self)
        task = make_task(self._task, key="data.task")
        if not isinstance(task, TextTask):
            raise UserError("this task reads no text", key="data.task", value=task.name, hint="bring a data module")
        check_packing(task, self.pack_length)
        refuse_idle_settings(TextData, self, task.packs, task.several, task.reads == "pictures", has_targets(task))
        check_settings(self.images, task, self.tokenizer_path)
        return task

    @property
    def uses(self) -> list[str]:
        """Which of ``train``, ``validation`` and ``test`` there are. Reads the data."""
        return list(self._rows.splits)

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes in the order of their ids; ``None`` where there are none. Reads the data."""
        return self._rows.labels.names if self._rows.labels is not None else None

    @cached_property
    def account(self) -> list[str]:
        """What was taken for what, and what was left out: lines for the beginning of a run. Reads the data."""
        notes = [*self._source.notes, *set_aside(self._source, self.validation_fraction)]
        splits = find_splits(self._source.splits, self.splits, self.validation_fraction)
        lines = sizes(self._rows, self._samples, splits)
        lines += said(self._rows, self._left_out, self.columns or {}, notes, self._samples.get("train"))
        lines += language.form_lines(self, self.task, self._rows, self._samples) + self._aligned
        for use, samples in self._samples.items():
            lines += unread(use, self._rows, samples, self.tokenizer, self.longest, self._cut[use])
            lines += cut_targets(use, samples, longest_target(self))
        return lines + doubtful_scores(self._rows, self._samples, self.in_train)

    @property
    def routes(self) -> Mapping[str, str]:
        """Which teachers the rows name -> the first row that does; none without such a column. Reads the data."""
        return self._rows.routes

    @property
    def learned_from(self) -> dict[str, int] | None:
        """Training ``rows``, and those that are ``labelled``; ``None`` where the data has no labels. Reads the data."""
        return self._rows.learned_from

    @cached_property
    def in_train(self) -> Mapping[str, tuple[int, int]]:
        """Use -> rows that are trained on too, and all of them, where that is known. Reads the data."""
        pictures = self._checked_task().reads == "pictures"
        return repeated_pictures(self._samples) if pictures else self._rows.in_train

    def require_labels(self, use: str) -> None:
        """As :meth:`RawData.require_labels`."""
        self._rows.require_labels(use)

    @cached_property
    def task(self) -> TextTask:
        """The task, which knows its classes. Reads the data."""
        task = make_task(self._task, self.labels, key="data.task")
        assert isinstance(task, TextTask)
        language.settle(task, self, self._rows)
        return task

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers; of pictures an :class:`~distill.core.images.ImageProcessor`."""
        return made_processor(self.tokenizer_path, self._checked_task(), self.chat_template, self.longest, self.images)

    @cached_property
    def other_tokenizer(self) -> Any:
        """The tokenizer of a teacher that has another one; ``None`` where all have one."""
        given, key = self.teacher_tokenizer, "data.teacher_tokenizer"
        return load_for_batches(given, self._checked_task(), key) if given else None

    @property
    def longest(self) -> tuple[str, int]:
        """The setting that bounds the length of a sample, and its tokens."""
        return ("data.pack_length", self.block_length) if self.block_length else ("data.max_length", self.max_length)

    @property
    def block_length(self) -> int:
        """Tokens of a packed block; 0 where samples stay as they are."""
        task = self._checked_task()
        return language.block_length(task, self.pack_length, self.training_columns) if task.packs else 0

    @property
    def isolates(self) -> bool:
        """Whether documents share blocks, and must not see each other there."""
        return bool(self.block_length) and self.isolate_documents

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokenized samples, those that judge the best among them, of given names and the tokenizer."""
        self.setup("fit")
        samples = [self._samples[use].fingerprint for use in ("train", "validation") if use in self._samples]
        names = [] if self._names is None else ["/".join(self.labels or []).encode().hex()]
        return "-".join([*samples, *names, identity_of(self.tokenizer)])

    def prepare_data(self) -> None:
        """Tokenize every split into the cache; called in one process a node, before the others look there."""
        for use in self._rows.splits:
            if use not in self._samples:  # Lightning calls it once more
                self._tokenized(use)

    def setup(self, stage: str | None = None) -> None:
        """Read what is tokenized; where nothing is cached, tokenize.

        Raises:
            UserError: for whatever is wrong with the settings or the data.
        """
        uses = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}
        for use in uses.get(stage or "", ("train", "validation", "test")):
            if use not in self._samples and use in self._rows.splits:
                samples = self._tokenized(use)
                self._left_out[use] = len(self._rows.splits[use]) - samples.rows
                self._aligned += language.aligned_lines(self, use, samples)
                self._cut[use] = (0, 0) if language.row_length(self) is None else language.cut_off(samples)
                self._samples[use] = language.in_blocks(self, self.task, self.training_columns, use, samples)

    def _tokenized(self, use: str) -> Samples:
        return tokenize(
            self._rows.splits[use],
            use,
            task=self.task,
            tokenizer=self.tokenizer,
            max_length=language.row_length(self),
            columns=self._rows.columns[use],
            labels=self._rows.labels,
            routes=list(self._rows.routes),
            seed=self.seed,
        )

    @property
    def training_columns(self) -> Mapping[str, str]:
        """What each column of the training data is read as: role -> its name."""
        return self._rows.columns["train"]

    @property
    def tokenized(self) -> Mapping[str, Samples]:
        """The samples of what has been read so far, by their use."""
        return self._samples

    def samples(self, use: str) -> Samples:
        """The tokenized samples of ``train``, ``validation`` or ``test``, asked for by ``(epoch, row)``.

        Raises:
            UserError: if the data has no such split.
        """
        if use not in self._samples:
            self.setup({"train": "fit", "validation": "validate"}.get(use, use))
        if use not in self._samples:
            problem = f"the data has no split for {use}, only for {', '.join(self._rows.splits)}"
            raise UserError(problem, key=f"data.splits.{use}", hint=f"name one: --data.splits.{use} SPLIT")
        return self._samples[use]

    def token_counts(self) -> torch.Tensor | None:
        """How often each token is to be predicted in the training data, ``[C]``; ``None`` where no tokens are."""
        if self.task.predicted is None or "train" not in self._rows.splits:
            return None
        return token_counts(self.samples("train"), self.task.predicted, self.tokenizer)

    def describe(self) -> dict[str, Any]:
        """Statistics of the data as it is trained on: samples of each split, tokens, batches, padding, classes."""
        return statistics(self)
