"""What a language model writes after a prompt, for many prompts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from distill.core.document_masking import still
from distill.core.stacks import starts_with
from distill.core.utils.quiet import quiet_transformers
from distill.models.tokens import ends_of

_config: Any = GenerationConfig

__all__ = ["continuations", "exactly", "reads_padding_beside"]


@torch.no_grad()
def continuations(
    model: nn.Module,
    prompts: Sequence[Tensor],
    most: int,
    *,
    temperature: float | None = None,
    together: bool = True,
    beams: int = 1,
) -> list[Tensor]:
    """The tokens that follow each prompt, its end included where the model has come to one.

    An encoder-decoder's are those that its decoder writes when its encoder has read the prompt.

    The model writes as it is (masked, rounded), in eval mode, with a cache of keys and values. Nothing but the
    temperature shapes what is drawn: what its ``generation_config`` says besides the ends is left out. Numbers are
    drawn from torch's global generator.

    Args:
        model: Of transformers, with ``generate``.
        prompts: Ids ``[t]`` of each, at least one.
        most: Tokens to add at most.
        temperature: Of the softmax that is drawn from; ``None`` takes the most likely token.
        together: Whether prompts of several lengths are read in one batch, padded on the left, or of an encoder on the
            right (:func:`reads_padding_beside`); otherwise only those of one length.
        beams: Of how many texts at a time the most likely is found; 1 takes the most likely token each time.
    """
    lengths = sorted({len(prompt) for prompt in prompts})
    groups = [range(len(prompts))] if together else [_of_length(prompts, length) for length in lengths]
    found: dict[int, Tensor] = {}
    with still(model), _plainly(model, temperature, beams) as settings:
        for group in groups:
            made = _written(model, [prompts[place] for place in group], most, settings)
            found |= dict(zip(group, made, strict=True))
    return [found[place] for place in range(len(prompts))]


@torch.no_grad()
def exactly(model: nn.Module, prompt: Tensor, count: int) -> Tensor:
    """The ``count`` most likely tokens after a prompt, one after the other, past any end.

    Args:
        model: As of :func:`continuations`.
        prompt: Ids ``[t]``.
        count: How many.
    """
    with still(model), _plainly(model, None) as settings:
        settings.eos_token_id = None
        return _written(model, [prompt], count, settings)[0]


def _of_length(prompts: Sequence[Tensor], length: int) -> list[int]:
    return [place for place, prompt in enumerate(prompts) if len(prompt) == length]


@contextmanager
def _plainly(model: Any, temperature: float | None, beams: int = 1) -> Iterator[GenerationConfig]:
    """How the model is to write; what it says itself of that is set aside, as it would fill what is left out."""
    ends, own = ends_of(model), model.generation_config
    start = {"decoder_start_token_id": starts_with(model)} if _apart(model) else {}
    drawn = {} if temperature is None else {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    plain: GenerationConfig = _config(
        do_sample=temperature is not None,
        eos_token_id=ends or None,
        pad_token_id=_padding(model, ends),
        use_cache=True,
        num_beams=beams,
        **drawn,
        **start,
    )
    model.generation_config = _config()
    try:
        with quiet_transformers():
            yield plain
    finally:
        model.generation_config = own


def _padding(model: Any, ends: Sequence[int]) -> int:
    found = getattr(model.config.get_text_config(), "pad_token_id", None)
    return found if isinstance(found, int) else ends[0] if ends else 0


def _written(model: Any, prompts: Sequence[Tensor], most: int, settings: GenerationConfig) -> list[Tensor]:
    ids, real = _padded(model, prompts, settings.pad_token_id)
    made = model.generate(ids, attention_mask=real, generation_config=settings, max_new_tokens=most)
    read = 1 if _apart(model) else ids.shape[1]
    return [_upto(row, settings.eos_token_id or []) for row in made[:, read:].cpu()]


def _apart(model: Any) -> bool:
    """Whether what is read goes to an encoder, and what is written begins anew."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _padded(model: Any, prompts: Sequence[Tensor], padding: int) -> tuple[Tensor, Tensor]:
    """Prompts ``[B, T]`` on the model's device, and which of their positions hold a token."""
    device, width = next(model.parameters()).device, max(map(len, prompts))
    ids = torch.full((len(prompts), width), padding, dtype=torch.long)
    real = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if _apart(model) else slice(width - len(prompt), width)
        ids[row, place], real[row, place] = prompt, 1
    return ids.to(device), real.to(device)


def _upto(row: Tensor, ends: Sequence[int]) -> Tensor:
    """The tokens up to the first end."""
    ended = torch.isin(row, torch.tensor(list(ends), dtype=row.dtype)).nonzero()
    return row[: int(ended[0]) + 1] if len(ended) else row


def reads_padding_beside(model: nn.Module) -> bool:
    """Whether a prompt is read alike alone and beside a longer one: found by trying both.

    Models that read positions off the attention mask do, and recurrent ones that count padding do not.

    Raises:
        Exception: whatever the model raises where it cannot write at all.
    """
    size = min(7, model.config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]
    short, longer = torch.tensor([3, 5]) % size, torch.tensor([1, 4, 2, 6, 5]) % size
    with still(model), torch.no_grad(), _plainly(model, None) as settings:
        settings.output_logits = settings.return_dict_in_generate = True
        settings.eos_token_id = None
        alone, beside = (_logits(model, prompts, settings) for prompts in ([short], [short, longer]))
    apart = (alone[0] - beside[0]).abs().max()
    near = 1e-3 if alone.dtype in (torch.float32, torch.float64) else 5e-2
    return bool(apart <= near * alone[0].abs().max().clamp(min=1e-6))


def _logits(model: Any, prompts: Sequence[Tensor], settings: GenerationConfig) -> Tensor:
    """Of the first two tokens that are written, ``[B, 2, V]``."""
    ids, real = _padded(model, prompts, 0)
    made = model.generate(ids, attention_mask=real, generation_config=settings, max_new_tokens=2)
    return torch.stack(made.logits, 1)
