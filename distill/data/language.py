"""Data of language models: texts, prompts with completions, or chats; which of their tokens count; blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.core.idle_settings import idle
from distill.core.processor import identity_of
from distill.core.signals import IGNORE, TEACHER_AT, TEACHER_PATH
from distill.core.task import PART, TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home
from distill.data import arrow
from distill.data.features import Ragged, Samples
from distill.data.packing import PackedSamples, sliding_windows
from distill.data.raw_data import RawData
from distill.data.routes import refuse_blocks
from distill.data.targets import has_targets
from distill.tasks.alignment import OtherTokenizer
from distill.tasks.chat import special_tokens

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = [
    "aligned_lines",
    "block_length",
    "cut_off",
    "form_lines",
    "has_turns",
    "in_blocks",
    "row_length",
    "settle",
    "template_doubts",
    "touching",
    "use_template",
]

_SETTINGS = ("completion_only_loss", "add_special_tokens", "chat_template", "teacher_system")
"""Of the data, which the task keeps."""

_TEXT_BLOCK, _CHAT_BLOCK = 256, 1024


def has_turns(task: TextTask, roles: Mapping[str, str]) -> bool:
    """Whether rows are prompts with completions, or chats."""
    return bool(task.turns & roles.keys())


def block_length(task: TextTask, given: int | None, roles: Mapping[str, str]) -> int:
    """Tokens of a packed block; 0 where samples stay as they are.

    Args:
        task: The task.
        given: ``data.pack_length``.
        roles: Role -> column of the training data.
    """
    if not task.packs:
        return 0
    return given if given is not None else _CHAT_BLOCK if has_turns(task, roles) else _TEXT_BLOCK


def row_length(data: TextData) -> int | None:
    """To how many tokens a row is cut; ``None`` where texts are cut into blocks."""
    return None if data.block_length and not has_turns(data.task, data.training_columns) else data.longest[1]


def in_blocks(data: TextData, task: TextTask, roles: Mapping[str, str], use: str, samples: Samples) -> Samples:
    """``samples`` packed into blocks, or cut into windows to be judged by, as the settings of ``data`` say.

    Args:
        data: Its settings.
        task: Its task.
        roles: Role -> column of the training data.
        use: ``train``, ``validation`` or ``test``.
        samples: The split's, each document one.

    Raises:
        UserError: if windows are asked for where there can be none.
    """
    length, turns, stride = block_length(task, data.pack_length, roles), has_turns(task, roles), data.eval_stride
    isolate = data.isolate_documents
    if data.routes and length:
        refuse_blocks(roles)
    if stride is not None and data.teacher_tokenizer is not None:
        raise idle("data.eval_stride", stride, "data.teacher_tokenizer", "judge by blocks that do not overlap")
    if stride is not None:
        if not length or turns:
            raise idle("data.eval_stride", stride, "samples that are read whole", "pack plain texts: data.pack_length")
        if not 0 < stride <= length:
            problem, hint = f"must lie between 1 and a block's {length} tokens", f"try {length // 2}"
            raise UserError(problem, key="data.eval_stride", value=stride, hint=hint)
        if use != "train":
            return sliding_windows(samples, length, stride, isolate=isolate)
    return PackedSamples(samples, length, isolate=isolate, whole=turns) if length else samples


def use_template(tokenizer: Any, given: str | bool | None) -> None:
    """Give ``tokenizer`` the chat template of the user's file, if there is one.

    Raises:
        UserError: if it cannot be read.
    """
    if not isinstance(given, str):
        return
    try:
        tokenizer.chat_template = Path(at_home(given)).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        problem = f"cannot be read ({type(error).__name__})"
        raise UserError(problem, key="data.chat_template", value=given, hint="name a file with a template") from error


def settle(task: TextTask, data: TextData, rows: RawData) -> None:
    """Have ``task`` read rows as the data's settings say.

    Args:
        task: Just made.
        data: Its settings.
        rows: Its rows.

    Raises:
        UserError: if a setting does nothing with such rows, or a chat template is missing.
    """
    if data.images is not None:
        task.read_as(data.images)
    if has_targets(task):
        task.write_to(data.prefix, data.max_target_length)
    if not task.packs:
        if rows.labels is not None or "spans" in task.takes:
            task.settle(data.doc_stride, rows.labels is None or rows.labels.some_without)
        return
    kinds: Any = task
    roles = rows.columns["train"]
    given = {name: getattr(data, name) for name in _SETTINGS}
    for name in ("completion_only_loss", "add_special_tokens", "teacher_system"):
        if given[name] is not None:
            setattr(kinds, name, given[name])
    if data.teacher_tokenizer is not None:
        _refuse_beside(data, has_turns(task, roles))
        kinds.teacher_tokenizer = OtherTokenizer(data.other_tokenizer, identity_of(data.other_tokenizer))
    template = given["chat_template"] if given["chat_template"] is not None else kinds.chat_template
    if not has_turns(task, roles):
        for name in ("completion_only_loss", "chat_template", "teacher_system"):
            if given[name] is not None:
                hint = "bring the columns prompt and completion, or messages"
                raise idle(f"data.{name}", given[name], "plain texts", hint)
        return
    if kinds.teacher_system is not None and not kinds.completion_only_loss:
        beside, hint = "prompts that count", "set data.completion_only_loss: true"
        raise idle("data.teacher_system", kinds.teacher_system, beside, hint)
    has_template = data.tokenizer.chat_template is not None
    lists = rows.holds_lists("messages") or rows.holds_lists("prompt")
    if lists and (template is False or not has_template):
        problem = "chats need a chat template" + (", and the tokenizer has none" if not has_template else "")
        hint = "give one: data.chat_template: FILE, or name the tokenizer of a chat model"
        raise UserError(problem, key="data.chat_template", value=given["chat_template"], hint=hint)
    if template and not has_template:
        problem, hint = "the tokenizer has no chat template", "name a file with one"
        raise UserError(problem, key="data.chat_template", value=template, hint=hint)
    kinds.chat_template = lists or (has_template if template is None else bool(template))
    if kinds.chat_template and given["add_special_tokens"] is not None:
        hint = "set data.chat_template: false"
        raise idle("data.add_special_tokens", given["add_special_tokens"], "a chat template", hint)


def _refuse_beside(data: TextData, turns: bool) -> None:
    """Refuse what a teacher with a tokenizer of its own cannot read.

    Raises:
        UserError: naming it.
    """
    key, value = "data.teacher_tokenizer", data.teacher_tokenizer
    if data.teacher_system is not None:
        problem = "cannot be had beside data.teacher_system"
        raise UserError(problem, key=key, value=value, hint="leave one of them out")
    if turns and data.chat_template is not False:
        problem = "a chat template writes another text for each tokenizer, of which no position is that of the other"
        raise UserError(problem, key=key, value=value, hint="join prompts and completions: data.chat_template: false")


def aligned_lines(data: TextData, use: str, samples: Samples) -> list[str]:
    """Lines on how much of the training data a teacher of another tokenizer can be compared at; none without one.

    Args:
        data: The data.
        use: Of the samples.
        samples: Each document one.

    Raises:
        UserError: if it is nothing.
    """
    if use != "train" or data.teacher_tokenizer is None:
        return []
    labels, at, path, apart = (samples.features[name] for name in ("labels", TEACHER_AT, TEACHER_PATH, "apart"))
    assert isinstance(labels, Ragged)
    assert isinstance(at, Ragged)
    assert isinstance(path, Ragged)
    counted = labels.values != IGNORE
    partner, begun = at.values[counted] >= 0, path.values[counted] > 0
    aligned, every, within = int((partner & ~begun).sum()), int(counted.sum()), int(begun.sum())
    if not aligned:
        problem = "no token of the training data ends where one of the student's does"
        hint = "name the teacher's own tokenizer, one that does not change the text"
        raise UserError(problem, key="data.teacher_tokenizer", value=data.teacher_tokenizer, hint=hint)
    share = f"{aligned:,} of {every:,} predicted tokens of train ({aligned / every:.1%})"
    lines = [f"teacher and student are compared at {share}, before which both have read the same bytes"]
    if within:
        lines.append(f"at {within:,} more ({within / every:.1%}) the student is within one of the teacher's tokens")
    if differing := int(np.asarray(apart).sum()):
        lines.append(
            f"a tokenizer spells {differing:,} of {len(samples):,} texts of train otherwise (it normalizes, or knows "
            "not all characters): there they are not compared from the first difference on"
        )
    return [f"data: {line}" for line in lines]


def cut_off(samples: Samples) -> tuple[int, int] | None:
    """How many samples were cut, and the tokens of the longest of them; ``None`` where that is not known."""
    if PART in samples.features:  # what is longer is read in windows
        return 0, 0
    beyond: Any = samples.features.get("beyond")
    if beyond is None:
        return None
    if not (beyond > 0).any():
        return 0, 0
    return int((beyond > 0).sum()), int((samples.lengths + beyond).max())


def template_doubts(data: TextData, teachers: Sequence[Any]) -> list[str]:
    """Lines on teachers that were trained with another chat template than that by which their samples are written.

    Args:
        data: The data.
        teachers: Their tokenizers.
    """
    kinds: Any = data.task
    if not data.task.packs or not has_turns(data.task, data.training_columns) or not kinds.chat_template:
        return []
    lines = []
    for tokenizer in teachers:
        theirs = getattr(tokenizer, "chat_template", None)
        if theirs is None:
            lines.append("the teacher has no chat template: it may be no chat model, and answer without an end")
        elif theirs != data.tokenizer.chat_template:
            own = "name its tokenizer in data.tokenizer, and leave data.chat_template out"
            lines.append(f"the teacher's chat template is another one, under which alone it answers as trained; {own}")
    return lines


def touching(prompts: Any, completions: Any) -> list[str]:
    """A line on prompts and completions that would be joined without white space; none where there are none.

    Args:
        prompts: Texts, of pyarrow.
        completions: Likewise.
    """
    apart = pc.or_(pc.match_substring_regex(prompts, r"\s$|^$"), pc.match_substring_regex(completions, r"^\s|^$"))
    together = pc.fill_null(pc.invert(apart), False)
    count = pc.sum(together).as_py() or 0
    if not count:
        return []
    at = pc.index(together, True).as_py()
    seam = f"{prompts[at].as_py()[-20:]}{completions[at].as_py()[:20]}"
    where = f"in {count:,} of {len(prompts):,} rows of train nothing stands between prompt and completion"
    return [f"{where}: {seam!r}; a space or a line break belongs to one of them"]


def form_lines(data: TextData, task: TextTask, rows: RawData, samples: Mapping[str, Samples]) -> list[str]:
    """Lines on how rows are read, and what of them counts.

    Args:
        data: The data.
        task: Its task, settled.
        rows: The data's.
        samples: Use -> samples as they are trained on.
    """
    kinds: Any = task
    roles = rows.columns["train"]
    if not task.packs or "train" not in samples:
        return []
    labels = samples["train"].features["labels"]
    assert isinstance(labels, Ragged)
    special = np.array([*special_tokens(data.tokenizer)], np.int64)
    counted = labels.count(lambda ids: ids != IGNORE)
    lines: list[str] = []
    if has_turns(task, roles):
        how = "through the tokenizer's chat template" if kinds.chat_template else "joined as they are"
        what = ("answers" if "messages" in roles else "completions") if kinds.completion_only_loss else "all turns"
        form = "chats" if "messages" in roles else "prompts and completions"
        share = f"{counted:,} of {len(labels.values):,} tokens of train"
        if kinds.teacher_system is not None:
            lines.append(f"the teacher is told besides, and the student is not: {kinds.teacher_system!r}")
        lines.append(f"{form} {how}; {what} count ({share}; data.completion_only_loss)")
        if not kinds.chat_template:
            lines += touching(*(arrow.column(rows.splits["train"], roles[role]) for role in ("prompt", "completion")))
    else:
        lines.append(f"{counted:,} tokens of train are predicted in an epoch")
    if not labels.count(lambda ids: np.isin(ids, special)):
        lines.append("no end of a text or turn is among the tokens that count: the student will not learn to stop")
    return [f"data: {line}" for line in lines]
