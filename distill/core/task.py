"""The contract of every task: how its data becomes batches, how models read them, how it is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torchmetrics import Metric

from distill.core.answer import Answer, Answering
from distill.core.column_look import ColumnLook
from distill.core.forward import forward
from distill.core.images import ImageSettings
from distill.core.internals.transformers import class_made_by
from distill.core.padding import Side
from distill.core.processor import Reads
from distill.core.scored import Guess, Scored
from distill.core.signals import Batch, OutputKind, Request, Signals
from distill.core.tally import Counts
from distill.core.token_scores import TokenScores
from distill.core.utils.errors import UserError

__all__ = [
    "Guess",
    "Scored",
    *("GROUP", "PART", "TRAINED", "UNIGRAM", "LabelForm", "Task", "TextTask", "TokenTask", "WritingTask"),
]

UNIGRAM = "the training data's token frequencies"
"""What language models are compared with."""


LabelForm = Literal["class", "number", "tags", "set", "spans"]
"""What a row's label is: one of the classes, a number, a class for each word, any number of the classes, or pieces of
its second text."""

_TRIED = ("a good film", "this is not a very bad story but it is long and dull for an hour")

PART = "part"
"""Of a sample's features, where a row may become several: which of them it is, from 0. They follow each other."""

GROUP = "group"
"""Of a sample's features, where several are judged together: a number that they share."""


TRAINED = "trained"
"""Of a sample, whether it is trained on: then what is drawn anew in each epoch may change it."""


class Task(ABC):
    """What a model is trained to do.

    Attributes:
        name: As written in YAML (``text-classification``).
        monitor: The metric that says which checkpoint is best; one of :meth:`metrics`. A run that chooses by another
            one sets it.
        mode: ``max`` or ``min``: which direction of :attr:`monitor` is better.
        stochastic: Whether a sample's inputs differ from epoch to epoch (masking): a signal recorded in one
            epoch is then none of the next.
        outputs: What the outputs of a model's head are; losses for other ones are refused.
        by_sample: Whether metrics judge each sample by itself, so that any choice of samples has a score.
    """

    name: ClassVar[str]
    stochastic: bool = False
    outputs: ClassVar[OutputKind] = "classes"
    by_sample: ClassVar[bool] = True
    monitor: str
    mode: str

    def batch(self, raw: Any) -> Batch:
        """The batch adaptor: what the loader yields, as a :class:`Batch`. Text tasks' loaders yield one already."""
        if not isinstance(raw, Batch):
            found = type(raw).__name__
            problem = f"its loader must yield distill.Batch, as that of TextData does, and this one yields {found}"
            hint = "give the trainer a TextData, or, for a loader of your own, Plain(adaptor=...) a function to a Batch"
            raise UserError(problem, key="model.task", value=self.name, hint=hint)
        return raw

    def forward(self, model: nn.Module, batch: Batch, request: Request) -> Signals:
        """One forward pass of teacher or student."""
        return forward(model, batch.inputs, request)

    def teach(self, model: nn.Module, batch: Batch, request: Request) -> Signals:
        """One forward pass of the teacher, if it reads something else than the student."""
        return self.forward(model, batch, request)

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics by name."""

    def meet_models(self, student: nn.Module, teachers: Sequence[nn.Module] | None) -> None:  # noqa: B027
        """Settle what depends on the models of a run, in place, before anything is read of them.

        Args:
            student: As it was made.
            teachers: Those that are loaded, of an ensemble all; ``None`` where there is no teacher.

        Raises:
            UserError: if one of them is none for the task.
        """

    def for_evaluation(self, batch: Batch) -> Batch:
        """A batch of an evaluation with its labels as metrics and counts read them."""
        return batch

    @abstractmethod
    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        """Show one batch's logits to :meth:`metrics`."""

    def means(self) -> dict[str, str]:
        """What the final table says of metrics whose name leaves it open: ``f1`` -> ``macro, ...``."""
        return {}

    def decisive(self, logits: Tensor, batch: Batch) -> Tensor:
        """Logits as decisions are read off them, whatever model or runtime gave them."""
        return logits

    def score(self, metrics: Mapping[str, Metric], signals: Signals, batch: Batch) -> Scored:
        """Show one batch's signals to :meth:`metrics`, and give what they predict."""
        assert signals.logits is not None
        self.update(metrics, signals.logits, batch)
        return Scored(self.predict(signals.logits), signals.logits)

    def predict(self, logits: Tensor) -> Tensor | None:
        """Predicted classes ``[...]`` of logits ``[..., C]``, compared for the agreement with the teacher.

        ``None`` where predictions are no classes (regression).
        """
        return logits.argmax(-1)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        """What a prediction that looks at no input scores, above which alone a score says something.

        It is the most frequent class *of the labels that are scored*: no constant does better, and none has to be
        fitted. A language model's is fitted, on the training data: the best constant of few tokens knows too much.

        Args:
            counts: Of the labels that are scored.
            tokens: How often each token is to be predicted in the training data, ``[C]``; ``None`` if not known.

        Returns:
            ``None`` where there is no such prediction, or nothing to score.
        """
        return None

    def always(self, label: int) -> str:
        """The prediction of one class for every input, in words."""
        return f"always {self.class_name(label)}"

    def class_name(self, label: int) -> str:
        """A class as it is shown."""
        names = getattr(self, "labels", None)
        return repr(names[label]) if names and label < len(names) else str(label)


class TextTask(Task, Answering):
    """A task on rows of a data set, with models of transformers, and what makes their inputs: of text a tokenizer, of
    pictures an image processor (what is called ``tokenizer`` below is either, as :attr:`reads` says).

    Args:
        labels: Names of the classes in the order of their ids; ``None`` where the task has none.

    Attributes:
        reads: What its models read of a row: ``tokens`` of a text, or ``pictures``.
        columns: Roles of the columns it reads -> names under which a data set's column is recognized, the
            best first (``{"text": ("sentence", "text"), "label": ("label", "labels")}``).
        optional: Roles that a split may lack.
        forms: Sets of roles of which a data set has one: the first that its columns fill. Where there is none, it has
            all roles that are not :attr:`optional`.
        turns: Roles whose rows may be lists of a chat's turns (:mod:`distill.tasks.chat`).
        sought: Roles of what is to be found, which a row has that is trained on, and none that is asked.
        predicted: The feature that holds the tokens to predict, where a task predicts tokens.
        takes: What a row's label may be. The gate (:mod:`distill.data.labels`) judges every split by it and hands
            :meth:`encode` an id (``class``), a float (``number``), a list of ids (``tags``), C floats (``set``)
            or answers as the data has them (``spans``); where a row has no label ``IGNORE``, NaN, ``None`` and C times
            NaN.
        between: Labels that are numbers lie between these two, if they are given.
        needs_labels: Whether validation needs labels, where the task has any.
        words: Whether texts are given as lists of words, with a label for each.
        several: Whether a row may become several samples, whose features then have :data:`PART`.
        together: The role of which rows with one value are judged together, whose features then have :data:`GROUP`.
        packs: Whether samples may be joined and cut into blocks (:class:`~distill.data.packing.PackedSamples`).
        pads_with_eos: Whether padding may be any token, because nothing ever reads it.
        sides: Where :meth:`collate` can put the padding.
        side: Where it does; another one where the models read the padding there
            (:mod:`distill.training.padding_probe`).
        pipeline: The pipeline of transformers that opens its models; ``None`` where there is none.
        adapter: What peft calls the task; ``None`` where it has no name.
        example: A text to show how a model is asked, with :data:`~distill.core.answer.MASK` for the mask token.
        lends: Another task whose recipes train this one, and with which options, where it has none of its own.
    """

    reads: ClassVar[Reads] = "tokens"
    columns: ClassVar[dict[str, tuple[str, ...]]]
    optional: ClassVar[frozenset[str]] = frozenset()
    forms: ClassVar[tuple[frozenset[str], ...]] = ()
    turns: ClassVar[frozenset[str]] = frozenset()
    sought: ClassVar[frozenset[str]] = frozenset({"label", "answer_start"})
    predicted: ClassVar[str | None] = None
    takes: ClassVar[frozenset[LabelForm]] = frozenset()
    between: ClassVar[tuple[float, float] | None] = None
    needs_labels: ClassVar[bool] = True
    words: ClassVar[bool] = False
    several: ClassVar[bool] = False
    together: ClassVar[str | None] = None
    packs: ClassVar[bool] = False
    pads_with_eos: ClassVar[bool] = False
    sides: ClassVar[tuple[Side, ...]] = ("right",)
    side: Side = "right"
    pipeline: ClassVar[str | None] = None
    adapter: ClassVar[str | None] = None
    example: ClassVar[str] = "a text"
    lends: ClassVar[tuple[str, tuple[str, ...]] | None] = None

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self.labels = list(labels) if labels is not None else None

    def settle(self, doc_stride: int | None, unanswerable: bool) -> None:
        """Take what the settings and the labels of data with ``spans`` say, before a row is encoded.

        Args:
            doc_stride: As the settings have it.
            unanswerable: Whether a row says that it has no answer.
        """

    def write_to(self, prefix: str | None, longest: int | None) -> None:
        """Take what the settings say of texts that are answered by texts, before a row is encoded.

        Args:
            prefix: What stands before each text; ``None`` if nothing says so.
            longest: Most tokens of an answer; likewise.
        """

    def read_as(self, images: ImageSettings) -> None:
        """Take what the settings of pictures say, where the task reads these."""

    def follow(self, other: TextTask) -> None:
        """Take from the task of the data, which is of the same kind, what its rows have settled."""

    def lead(self, other: TextTask) -> None:
        """Give the task of the data, which is of the same kind, what the models have settled."""

    @property
    @abstractmethod
    def auto_model(self) -> Any:
        """The ``AutoModelFor...`` class of transformers."""

    def opens(self, config: Any) -> bool:
        """Whether a model of this configuration was trained for the task, as far as it says."""
        made = class_made_by(self.auto_model, config)
        classes = made if isinstance(made, tuple) else (made,)
        return (config.architectures or [""])[0] in [getattr(one, "__name__", "") for one in classes]

    def head_config(self) -> dict[str, Any]:
        """What the model's configuration must say of the head (``num_labels``, ``id2label``, ``problem_type``)."""
        return {}

    def find_columns(self, names: Sequence[str]) -> dict[str, str]:
        """Recognize the roles' columns among a data set's: role -> column, without the roles not found."""
        found = {role: next((c for c in known if c in names), None) for role, known in self.columns.items()}
        return {role: column for role, column in found.items() if column is not None}

    def recognize(self, columns: Sequence[ColumnLook], role: str) -> dict[str, str]:
        """The columns of a role, and of the second text beside the first, whose names are known in any case."""
        names = {one.name.lower(): one.name for one in reversed(columns)}
        found = {known: names[name] for known, name in self.find_columns(list(names)).items()}
        wanted = ("text", "text_pair") if role == "text" else (role,)
        return {known: name for known, name in found.items() if known in wanted} if role in found else {}

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        """Whether data looks as if it were for this task.

        Args:
            columns: Of the data.
            label: The column of the labels, where a person named it.
        """
        return False

    @abstractmethod
    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        """A function for ``datasets.map(batched=True)``: columns by *role* in, model features out.

        It must be picklable and depend on nothing but its arguments. Labels arrive as :attr:`takes` says. It may
        leave rows out, and those that it gives no tokens are left out. ``input_ids`` is always a feature (of pictures
        ``image``, a file's bytes); a list is one per token.

        Args:
            tokenizer: The tokenizer.
            max_length: Longer samples are cut to it; ``None`` where they will be packed.

        Raises:
            BrokenRows: by the function, if rows hold nothing that can be read.
        """

    def outside(self, values: Mapping[str, Sequence[Any]]) -> list[Any]:
        """What tells whether files that rows name have changed: a picture's time and size, of columns by role."""
        return []

    def tried(self) -> dict[str, list[Any]]:
        """Columns by role of two rows, of different lengths, with which a model is tried before it is trained."""
        short, long = _TRIED
        texts: list[Any] = [short.split(), long.split()] if self.words else [short, long]
        return {"text": texts} | ({"text_pair": texts[:1] * 2} if "text_pair" in self.columns else {})

    @abstractmethod
    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """Samples as one padded batch: features as numpy arrays, and ``id``, ``epoch``, ``seed`` and :data:`TRAINED`.

        Anything random must be a function of ``(seed, epoch, id)`` of the sample alone.
        """

    def ask(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        """Samples as :meth:`collate` has them, of rows without labels, to be answered."""
        return self.collate(features, tokenizer)


class TokenTask(TextTask):
    """A task whose predictions are tokens of a vocabulary, judged without all of their logits at once.

    Attributes:
        of_text: Metrics that compare models of different tokenizers: they are of the text, and not of its tokens.
        reads_on: Whether each token is predicted from those before it, so that scores by their number say something.
    """

    of_text: ClassVar[frozenset[str]] = frozenset()
    reads_on: ClassVar[bool] = False

    @abstractmethod
    def judge(self, metrics: Mapping[str, Metric], scores: TokenScores, batch: Batch) -> None:
        """Show one batch's scores to :meth:`metrics`."""

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        self.judge(metrics, TokenScores.of(Signals(logits), batch), batch)

    def score(self, metrics: Mapping[str, Metric], signals: Signals, batch: Batch) -> Scored:
        scores = TokenScores.of(signals, batch)
        if type(self).update is TokenTask.update:
            self.judge(metrics, scores, batch)
        else:  # of a task of one's own, which reads the logits themselves
            logits = signals.logits if signals.lazy_logits is None else signals.lazy_logits.whole()
            assert logits is not None
            self.update(metrics, logits, batch)
        return Scored(scores.predicted, scores)


class WritingTask(TokenTask):
    """A task whose models write text, token by token.

    Attributes:
        reads_apart: Whether what is written does not go on with what is read: an encoder reads that, and a decoder
            writes.
        prefix: What stands before each text that is read.
        start: The token before the first that a decoder writes; ``None`` without one, or if no model has been met.
        chat_template: Whether a text is put through the tokenizer's chat template; ``None`` if nothing says so.
    """

    reads_apart: ClassVar[bool] = False
    prefix: str = ""
    start: int | None = None
    chat_template: bool | None = None

    @property
    def longest_answer(self) -> int:
        """How many tokens are written at most where nothing else is said."""
        return 40

    @property
    def ranks(self) -> bool:
        return False

    @abstractmethod
    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text that a model is to go on with, or to answer."""

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"completion": ""}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        return [[row["text"], answer["completion"]]]
