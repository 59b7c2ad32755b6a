"""What a language model goes on with: always the most probable token, so the same text every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill.core.signals import DECODER_INPUT, Batch
from distill.core.task import TextTask, WritingTask
from distill.core.utils.quiet import quiet_transformers
from distill.models.sampling import continuations
from distill.workflows.predict.opened import Opened

__all__ = ["added_text", "answer", "complete", "text_of", "written_text"]


@torch.inference_mode()
def complete(opened: Opened, prompts: Sequence[Sequence[int]], count: int) -> list[str]:
    """The texts that follow ``prompts``.

    Args:
        opened: A language model.
        prompts: Tokens, as many in each, so that there is no padding.
        count: Most tokens to add; the end of the text ends it before.
    """
    ids = torch.tensor(prompts, dtype=torch.long)
    made = _in_onnxruntime(opened, ids, count) if opened.model is None else _in_torch(opened, ids, count)
    return [added_text(opened.tokenizer, row.tolist(), ids.shape[1]) for row in made]


@torch.inference_mode()
def answer(opened: Opened, batch: Batch, count: int, beams: int = 1) -> list[str]:
    """The texts that a decoder writes when its encoder has read those of ``batch``.

    Args:
        opened: An encoder-decoder.
        batch: As its task asks it.
        count: Most tokens to write; the end of a text ends it before.
        beams: Of how many texts at a time the most likely is found; in torch.
    """
    assert batch.tokens is not None
    if opened.model is None:
        return [written_text(opened.tokenizer, ids.tolist()) for ids in _decoded_in_onnxruntime(opened, batch, count)]
    prompts = [ids[real] for ids, real in zip(batch.inputs["input_ids"], batch.tokens, strict=True)]
    made = continuations(opened.model, prompts, count, beams=beams)
    return [written_text(opened.tokenizer, ids.tolist()) for ids in made]


def _decoded_in_onnxruntime(opened: Opened, batch: Batch, count: int) -> Tensor:
    """Every step reads all anew: the file has no memory of what was read and written."""
    end, written = opened.tokenizer.eos_token_id, batch.inputs[DECODER_INPUT][:, :1]
    ended = torch.zeros(len(written), dtype=torch.bool)
    for _ in range(count):
        logits = opened.logits(replace(batch, inputs={**batch.inputs, DECODER_INPUT: written}))
        following = logits[:, -1].argmax(-1).masked_fill(ended, end)
        written = torch.cat([written, following[:, None]], 1)
        ended |= following == end
        if ended.all():
            break
    return written[:, 1:]


def _in_torch(opened: Opened, ids_BT: Tensor, count: int) -> Tensor:
    model: Any = opened.model
    with quiet_transformers():
        made: Tensor = model.generate(
            ids_BT.to(model.device),
            attention_mask=torch.ones_like(ids_BT, device=model.device),
            max_new_tokens=count,
            do_sample=False,
            num_beams=1,
            pad_token_id=opened.tokenizer.eos_token_id,
            eos_token_id=opened.tokenizer.eos_token_id,
        )
    return made


def _in_onnxruntime(opened: Opened, ids_BT: Tensor, count: int) -> Tensor:
    """Every step reads the text so far anew: the file has no memory of keys and values."""
    end = opened.tokenizer.eos_token_id
    ended = torch.zeros(len(ids_BT), dtype=torch.bool)
    for _ in range(count):
        following = opened.logits(Batch(inputs={"input_ids": ids_BT}))[:, -1].argmax(-1)
        following = following.masked_fill(ended, end)
        ids_BT = torch.cat([ids_BT, following[:, None]], 1)
        ended |= following == end
        if ended.all():
            break
    return ids_BT


def added_text(tokenizer: Any, ids: list[int], prompt: int) -> str:
    """The text behind the prompt: a token may begin with a blank that it loses where it comes first."""
    if tokenizer.eos_token_id in ids[prompt:]:
        ids = ids[: ids.index(tokenizer.eos_token_id, prompt)]
    before, whole = (str(tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:prompt], ids))
    added = whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(ids[prompt:])
    return str(added)


def written_text(tokenizer: Any, ids: list[int]) -> str:
    """What a decoder wrote, up to its end."""
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def text_of(task: TextTask, tokenizer: Any, prompt: list[int], ids: list[int]) -> str:
    """What was written after a prompt, or by a decoder of its own.

    Args:
        task: Says which.
        tokenizer: The model's.
        prompt: Tokens that were read.
        ids: Those that were written, without an end.
    """
    apart = isinstance(task, WritingTask) and task.reads_apart
    return written_text(tokenizer, ids) if apart else added_text(tokenizer, prompt + ids, len(prompt))
