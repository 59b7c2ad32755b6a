"""On-policy distillation: some batches hold what the student itself writes, and the teacher judges that.

A student that learns from texts alone never sees its own mistakes, from which it has to go on when it writes. So a
part of the batches is replaced: each of their documents gives a prompt, the student goes on with it as it is now, and
the losses compare both models on what it has written.

Reference:
    Agarwal et al.: On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes (GKD), ICLR 2024.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from distill.core.generators import forked, seed_at
from distill.core.internals.lightning import batches_begun
from distill.core.schedules import Schedule, as_schedule, never, values_of
from distill.core.signals import IGNORE, Batch, Needs
from distill.core.step_callback import total_steps
from distill.core.task import Task, WritingTask
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError, first_line
from distill.data import TextData
from distill.models.compatibility import positions_of
from distill.models.sampling import continuations, reads_padding_beside
from distill.models.teachers import RoutedTeacher
from distill.training.sharding import NAME

__all__ = [
    "OnPolicy",
    "OnPolicyConfig",
    "check_reaches_student",
    "continued",
    "is_replaced",
    "prompts_of",
    "refuse_sharded",
    "student_batch",
]

_KEY = "model.on_policy"
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig:
    """Which part of the batches the student writes itself, and how.

    Attributes:
        share: Of the batches, in [0, 1], or a schedule of it.
        prompt_length: How many tokens of a text it goes on with. Of prompts and chats the prompt is what comes before
            an answer, whatever its length.
        max_new_tokens: How many it adds at most; its end of text ends it before.
        temperature: Of what it draws from, greater than 0.
    """

    share: float | Schedule = 0.5
    prompt_length: int = 64
    max_new_tokens: int = 64
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for value in values_of(self.share):
            if not 0 <= value <= 1:
                hint = "0.5 has the student write half of the batches"
                raise UserError("must lie in [0, 1]", key=f"{_KEY}.share", value=value, hint=hint)
        if never(as_schedule(self.share)):
            problem = "is 0 at every step, so the student would write nothing"
            raise UserError(problem, key=f"{_KEY}.share", value=self.share, hint="raise it, or leave on_policy out")
        for name in ("prompt_length", "max_new_tokens"):
            if (value := getattr(self, name)) < 1:
                raise UserError("must be 1 or more", key=f"{_KEY}.{name}", value=value, hint="64 is a start")
        if not 0 < self.temperature < float("inf"):
            hint = "1.0 draws from the student as it is"
            raise UserError("must be greater than 0", key=f"{_KEY}.temperature", value=self.temperature, hint=hint)


def is_replaced(batch: int, share: float) -> bool:
    """Whether the batch of that number in the run is one that the student writes.

    A function of the number alone, the same on every rank, so that none waits for another: of the points
    batch * (sqrt(5) - 1) / 2 modulo 1, which fill [0, 1) evenly from the first on, those below ``share``.
    """
    return (batch * _GOLDEN) % 1.0 < share


def prompts_of(batch: Batch, length: int) -> list[Tensor]:
    """What the student is to go on with: the beginning of each document of a batch, ids ``[t]``.

    Of a document that is predicted from its start on, a text, it is the first ``length`` tokens. Of any other it is
    all before an answer; which one, where it has several, is drawn from torch's global generator.

    Args:
        batch: Of a causal language model, packed or not.
        length: See above.
    """
    found = (_prompt(ids, predicted, length) for ids, predicted in _documents(batch))
    return [prompt for prompt in found if prompt is not None]


def _documents(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and which of them predict a token that counts, of each document."""
    source = batch.on_host or batch
    ids_BT, labels_BT = source.inputs["input_ids"], source.labels
    assert labels_BT is not None
    positions_BT = source.inputs.get("position_ids")
    for row, ids in enumerate(ids_BT):
        real = len(ids) if source.tokens is None else int(source.tokens[row].sum())
        firsts = [0] if positions_BT is None else (positions_BT[row, :real] == 0).nonzero()[:, 0].tolist()
        for first, last in zip(firsts, [*firsts[1:], real], strict=True):
            yield ids[first:last], labels_BT[row, first:last] != IGNORE


def _prompt(ids: Tensor, predicted: Tensor, length: int) -> Tensor | None:
    if not predicted.any():
        return None
    if predicted[0]:
        return ids[:length]
    answers = (predicted[1:] & ~predicted[:-1]).nonzero()[:, 0] + 1  # where one begins to be predicted
    chosen = answers[int(torch.randint(len(answers), ()))] if len(answers) > 1 else answers[0]
    return ids[: int(chosen) + 1]


def refuse_sharded(on_policy: OnPolicy | None) -> None:
    """Refuse to have a student write of which each rank has a part: ranks would wait for one that has ended earlier.

    Raises:
        UserError: if it is to write.
    """
    if on_policy is not None:
        problem = f"cannot be had under trainer.strategy: {NAME}, where each rank has a part of the student"
        raise UserError(problem, key=_KEY, hint="leave one of them out")


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of ``items``, at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[int((place + 0.5) * len(items) / most)] for place in range(most)]


def continued(prompts: Sequence[Tensor], answers: Sequence[Tensor], padding: int) -> Batch:
    """Prompts and what was written after them, one a row, of which what was written is predicted.

    No token of it is a label: losses against labels count nothing here.

    Args:
        prompts: Ids ``[t]`` of each, at least one token.
        answers: Likewise, at least one.
        padding: Id of what rows are filled up with, on the right.
    """
    lengths = torch.tensor([len(prompt) + len(answer) - 1 for prompt, answer in zip(prompts, answers, strict=True)])
    rows = [torch.cat([prompt, answer])[:-1].long() for prompt, answer in zip(prompts, answers, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_value=padding)
    place = torch.arange(ids.shape[1])
    tokens = place < lengths[:, None]
    asked = torch.tensor([len(prompt) - 1 for prompt in prompts])  # the last token of a prompt predicts the first one
    padded = not bool(tokens.all())
    return Batch(
        inputs={"input_ids": ids} | ({"attention_mask": tokens.long()} if padded else {}),
        labels=torch.full_like(ids, IGNORE),
        mask=tokens & (place >= asked[:, None]),
        tokens=tokens if padded else None,
    )


class OnPolicy:
    """Has the student write some of the batches.

    Args:
        config: How.
        task: Of the run.
        student: Likewise.
        teacher: Likewise.
        needs: What the losses read.

    Attributes:
        share: Of the batches, by step.
        seed: Of what is drawn, with the batch's number and the rank.
        replaced: Whether the batch that was made last is the student's own.
        alternating: Whether every second step is, whatever the share; for a dry run, which measures both kinds.

    Raises:
        UserError: if that cannot work.
    """

    def __init__(
        self, config: OnPolicyConfig, task: Task, student: nn.Module, teacher: TeacherSource | None, needs: Needs
    ) -> None:
        self.config, self.student, self.share = config, student, as_schedule(config.share)
        self._models = [student, *(teacher.models if teacher is not None else [])]
        self.seed, self.replaced, self.alternating = 0, False, False
        self._together = True
        if not isinstance(task, WritingTask) or task.reads_apart:
            problem = f"is for language models that go on with a text, and this is {task.name}"
            raise UserError(problem, key=_KEY, hint="leave it out")
        if teacher is None or not needs.teacher:
            problem = "the teacher judges what the student writes, and no loss compares it with one"
            raise UserError(problem, key=_KEY, hint="give model.teacher and a loss such as ReverseKL, or leave it out")
        if isinstance(teacher, RoutedTeacher):
            problem = "what the student writes names none of the teachers that teach rows of their own"
            raise UserError(problem, key=_KEY, hint="leave it out, or take one teacher")
        if teacher.known_scores is not None:
            problem = "a recorded teacher says nothing of what the student writes"
            raise UserError(problem, key=_KEY, hint="take the teacher itself, or leave on_policy out")
        if not getattr(student, "can_generate", lambda: False)():
            problem = f"{type(student).__name__} cannot generate"
            raise UserError(problem, key=_KEY, hint="take a causal language model of transformers as the student")

    def meet(self, data: Any) -> None:
        """Try whether the student can write, and has room for it.

        Raises:
            UserError: if it cannot, or has not, or its teacher is to be told more than itself.
        """
        if isinstance(data, TextData) and data.teacher_system is not None:
            problem = "is told the teacher with the data's own texts alone, and not with what the student writes"
            hint = "leave model.on_policy out, or have it in the data"
            raise UserError(problem, key="data.teacher_system", value=data.teacher_system, hint=hint)
        rooms = [room for model in self._models if (room := positions_of(model)) is not None]
        if rooms and isinstance(data, TextData):
            setting, longest = data.longest
            prompt = min(longest, self.config.prompt_length) if "text" in data.training_columns else longest
            if prompt + self.config.max_new_tokens > min(rooms):
                problem = f"with a prompt of {prompt} tokens they are more than the {min(rooms)} that a model reads"
                value, hint = self.config.max_new_tokens, f"give fewer, or a smaller {setting}"
                raise UserError(problem, key=f"{_KEY}.max_new_tokens", value=value, hint=hint)
        try:
            self._together = reads_padding_beside(self.student)
        except Exception as error:
            problem = f"{type(self.student).__name__} cannot write ({type(error).__name__}: {first_line(error)})"
            raise UserError(problem, key=_KEY, hint="take another student, or leave on_policy out") from error

    def __call__(self, batch: Batch, number: int, rank: int, step: int, total_steps: int) -> Batch:
        """The batch, or the one that the student has written in its place.

        Args:
            batch: As the data has it, on its device.
            number: Of the batch in the run.
            rank: Of the process.
            step: Optimizer steps done.
            total_steps: Of the run.
        """
        self.replaced = step % 2 == 1 if self.alternating else is_replaced(number, self.share(step, total_steps))
        if not self.replaced:
            return batch
        with forked(seed_at(self.seed, number, rank)):
            prompts = self._fitting(prompts_of(batch, self.config.prompt_length), batch)
            if not prompts:
                self.replaced = False
                return batch
            most, temperature = self.config.max_new_tokens, self.config.temperature
            answers = continuations(self.student, prompts, most, temperature=temperature, together=self._together)
        made = continued(prompts, answers, int(prompts[0][0]))
        return made.to(batch.inputs["input_ids"].device)

    def _fitting(self, prompts: list[Tensor], batch: Batch) -> list[Tensor]:
        """No more than make a batch of as many positions, or one a row."""
        if not prompts:
            return prompts
        each = max(map(len, prompts)) + self.config.max_new_tokens
        return _evenly(prompts, max(batch.size, batch.inputs["input_ids"].numel() // each))

    @property
    def described(self) -> str:
        """What it does, in a line."""
        config = self.config
        constant = isinstance(config.share, int | float)
        share = f"{100 * self.share(0, 1):g} %" if constant else f"a share ({type(config.share).__name__})"
        return (
            f"{share} of the batches are written by the student: up to {config.max_new_tokens} tokens at temperature "
            f"{config.temperature:g} after each prompt, or the first {config.prompt_length} tokens of a text"
        )


def student_batch(module: LightningModule, policy: OnPolicy, batch: Any) -> Any:
    """What is taken for a batch that has come to the device; of training alone another one than it was."""
    trainer = module.trainer
    if not trainer.training:
        return batch
    task: Task = module.task  # type: ignore[assignment]
    number = batches_begun(trainer) + 1  # this one is not counted yet
    with trainer.precision_plugin.forward_context():
        steps = module.global_step, total_steps(module)
        return policy(task.batch(batch), number, trainer.global_rank, *steps)


def check_reaches_student(policy: OnPolicy | None, data: Any) -> None:
    """Refuse data whose own hook Lightning would ask for the batches, in place of the module's.

    Where only the module has the hook Lightning warns of that, which says nothing here.

    Raises:
        UserError: if the student is to write batches.
    """
    hook = "on_after_batch_transfer"
    warnings.filterwarnings("ignore", message=f".*You have overridden `{hook}`.*")
    if policy is not None and isinstance(data, LightningDataModule) and is_overridden(hook, data):
        problem = f"{type(data).__name__} has {hook} of its own, which Lightning calls in place of the student"
        raise UserError(problem, key=_KEY, hint="do it in the dataset or the collate function, or leave on_policy out")
