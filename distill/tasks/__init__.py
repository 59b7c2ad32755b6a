"""What a model is trained to do: how data becomes batches, how models read them, how they are judged."""

from __future__ import annotations

from collections.abc import Sequence

from distill.core.signatures import refuse_signatures
from distill.core.task import Task, TextTask, TokenTask
from distill.core.utils.errors import UserError, nearest
from distill.tasks.causal_lm import CausalLM
from distill.tasks.image_classification import ImageClassification
from distill.tasks.masked_lm import MaskedLM
from distill.tasks.multi_label import MultiLabelClassification
from distill.tasks.plain import Plain
from distill.tasks.question_answering import QuestionAnswering
from distill.tasks.reranking import Reranking
from distill.tasks.sentence_embeddings import SentenceEmbeddings
from distill.tasks.seq2seq import Seq2Seq
from distill.tasks.text_classification import TextClassification
from distill.tasks.token_classification import TokenClassification

__all__ = [
    "DEFAULT",
    "GUESSED",
    "TASKS",
    "CausalLM",
    "ImageClassification",
    "MaskedLM",
    "MultiLabelClassification",
    "Plain",
    "QuestionAnswering",
    "Reranking",
    "SentenceEmbeddings",
    "Seq2Seq",
    "Task",
    "TextClassification",
    "TextTask",
    "TokenClassification",
    "make_task",
    "metric_names",
]

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        TextClassification,
        MultiLabelClassification,
        TokenClassification,
        QuestionAnswering,
        SentenceEmbeddings,
        Reranking,
        ImageClassification,
        MaskedLM,
        CausalLM,
        Seq2Seq,
        Plain,
    )
}


DEFAULT = TextClassification.name
"""The task of a configuration that names none."""

GUESSED: tuple[type[TextTask], ...] = (
    QuestionAnswering,
    Reranking,
    SentenceEmbeddings,
    Seq2Seq,
    TokenClassification,
    MultiLabelClassification,
    TextClassification,
    CausalLM,
)
"""In which order tasks are asked whether data is for them (:meth:`~distill.core.task.TextTask.suits`): first those that
know their columns by several names. The last one reads any text."""


def metric_names(task: str) -> set[str]:
    """The metrics that runs of the task of that name may have, whatever their labels."""
    kind = TASKS[task]
    compared = {"agreement", "acceptance"} if issubclass(kind, TokenTask) else {"agreement"}
    made = [kind(labels) for labels in (None, ["a", "b"])] if issubclass(kind, TextTask) else [kind()]
    return {name for one in made for name in one.metrics()} | compared


def make_task(task: str | Task, labels: Sequence[str] | None = None, key: str = "model.task") -> Task:
    """The task of that name, with these classes; a ready task is returned, and told the classes it lacks.

    Args:
        task: Name or task.
        labels: Names of the classes; ``None`` where there are none.
        key: Where the task stands in the configuration, for the error's message.

    Raises:
        UserError: if no task has this name, or one of your own cannot be called as a task.
    """
    if isinstance(task, Task):
        refuse_signatures(task, key)
        if isinstance(task, TextTask) and task.labels is None and labels is not None:
            task.labels = list(labels)
        return task
    if task not in TASKS:
        raise UserError("no such task", key=key, value=task, hint=nearest(str(task), TASKS))
    kind = TASKS[task]
    return kind(labels) if issubclass(kind, TextTask) else kind()
