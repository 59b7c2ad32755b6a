"""The tokenizer that makes the batches, and the models that read them: the same tokens, and one padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from distill.core.utils.errors import UserError

__all__ = [
    "by_id",
    "check_same",
    "check_tokenizer",
    "embedding_rows",
    "ends_of",
    "said",
    "set_ends",
    "set_padding",
    "tokens_differ",
]

_ROLES = ("bos_token_id", "eos_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id")

_PROBES = (
    "The quick brown fox isn't lazy: 3.14 of 42 (or so)!",
    "Déjà vu, naïve Straße; 漢字とかな 🙂 Ωμέγα",
    'def f(x):\n    return x["key"]  # CamelCase, snake_case\n',
)
"""What a few texts become shows rules (case, accents, spaces, digits, special tokens) that no vocabulary does."""


def by_id(tokenizer: Any) -> dict[int, str]:
    """Id -> token."""
    return {number: token for token, number in tokenizer.get_vocab().items()}


def tokens_differ(ours: Any, theirs: Any) -> list[int]:
    """The ids that two tokenizers give to other tokens, a padding that only one of them has left out."""
    first, second = by_id(ours), by_id(theirs)
    added = {
        one.pad_token_id
        for one, vocabulary in ((ours, second), (theirs, first))
        if one.pad_token_id is not None and one.pad_token_id not in vocabulary
    }
    return sorted(i for i in (first.keys() | second.keys()) - added if first.get(i) != second.get(i))


def said(tokenizer: Any, number: int) -> str:
    """The token of an id as a message shows it."""
    tokens: Mapping[int, str] = by_id(tokenizer)
    return repr(tokens[number]) if number in tokens else "nothing"


def check_same(data: Any, own: Any, who: str, key: str = "data.tokenizer") -> None:
    """Refuse a tokenizer of the data that is not the one that the model was trained with.

    Compared are the ids of all tokens, the special tokens that the model's own names, and what three texts become.
    The padding may be another: whatever it is, nothing reads it.

    Args:
        data: The tokenizer that makes the batches.
        own: The model's.
        who: The model's key.
        key: Where the data's stands.

    Raises:
        UserError: with the first difference.
    """
    found = _difference(data, own)
    if found:
        raise UserError(
            f"this is not the tokenizer of {who}, which would read other tokens than it was trained on: {found}",
            key=key,
            value=str(getattr(data, "name_or_path", "")) or None,
            hint=_one_tokenizer(data, own, who),
        )


def _one_tokenizer(data: Any, own: Any, who: str) -> str:
    """What to do about two tokenizers: of one vocabulary, a student can take on the other's special tokens."""
    name = str(getattr(data, "name_or_path", ""))
    if who == "model.student" and name and data.eos_token_id != own.eos_token_id and not tokens_differ(data, own):
        return f"to train it to end as the data does, set model.student.tokenizer: {name}"
    return f"teacher, student and data need one tokenizer: name that of {who}, or another model"


def _difference(data: Any, own: Any) -> str | None:
    different = tokens_differ(data, own)
    if different:
        number = different[0]
        return f"id {number} is {said(data, number)} here and {said(own, number)} there"
    for role in _ROLES:
        here, there = getattr(data, role), getattr(own, role)
        if there is not None and here != there:
            name = role.removesuffix("_id")
            return f"{name} is {'none' if here is None else said(data, here)} here and {said(own, there)} there"
    for text in _PROBES:
        here, there = data(text)["input_ids"], own(text)["input_ids"]
        if here != there:
            place = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), None)
            place = min(len(here), len(there)) - 1 if place is None else place
            tokens = data.convert_ids_to_tokens(here[place:][:3]), own.convert_ids_to_tokens(there[place:][:3])
            return f"{text[:24]!r}... becomes {tokens[0]} here and {tokens[1]} there from token {place + 1} on"
    return None


def embedding_rows(model: nn.Module) -> int | None:
    """How many tokens a model has embeddings of; ``None`` where that is not known."""
    config = getattr(model, "config", None)
    text: Any = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    return size if isinstance(size, int) else None


def check_tokenizer(tokenizer: Any, who: str, model: nn.Module) -> None:
    """Refuse a tokenizer of the data whose ids lie beyond a model's embedding.

    Raises:
        UserError: with both sizes.
    """
    rows, beyond = embedding_rows(model), max(by_id(tokenizer), default=0)
    if rows is not None and beyond >= rows:
        raise UserError(
            f"the tokenizer's ids go up to {beyond}, and the embedding of {who} has {rows} rows",
            key="data.tokenizer",
            value=str(getattr(tokenizer, "name_or_path", "")),
            hint=f"give the own tokenizer of {who}, or a model with as large a vocabulary",
        )


def set_padding(model: nn.Module, tokenizer: Any) -> None:
    """Have a model of transformers know the padding of the tokenizer that makes its batches.

    Decoders classify at the last token that is not the padding of their configuration, which may be another or none.
    It is set in the configuration (of the text, where there are several) and for generation, so it is saved and
    exported with the model. An embedding that trains every row but the padding's spares this one from now on, and none
    where the padding is a token of another role (the end of the text, say). Models that count their positions from the
    padding of their configuration (RoBERTa) stay as they were trained: nothing else in them reads it.

    Args:
        model: Another kind of module is left alone.
        tokenizer: Of transformers; where it has no padding nothing is set.
    """
    config, number = getattr(model, "config", None), getattr(tokenizer, "pad_token_id", None)
    if number is None or not isinstance(config, PreTrainedConfig) or _counts_from_padding(model):
        return
    for one in (config, config.get_text_config(), getattr(model, "generation_config", None)):
        if one is not None:
            one.pad_token_id = number
    table = next((m for m in model.modules() if isinstance(m, nn.Embedding) and _is_input(model, m)), None)
    if table is not None and table.padding_idx is not None:
        mere = number not in (getattr(tokenizer, role, None) for role in _ROLES)
        table.padding_idx = number if mere and number < table.num_embeddings else None


def set_ends(model: nn.Module, tokenizer: Any, teachers: Sequence[nn.Module] = ()) -> None:
    """Have a language model stop where the texts of its training end: at the tokenizer's end token, and its teachers'.

    A student that was a base model knows another end, or one alone where a chat model has several. They are saved
    with it.

    Args:
        model: The student; another kind than one of transformers is left alone.
        tokenizer: Of transformers.
        teachers: Models whose ends it learns.
    """
    config, generation = getattr(model, "config", None), getattr(model, "generation_config", None)
    if not isinstance(config, PreTrainedConfig) or generation is None or tokenizer.eos_token_id is None:
        return
    known = [getattr(teacher, "generation_config", None) for teacher in teachers]
    ends = [*_ends(generation), *(end for one in known for end in _ends(one)), tokenizer.eos_token_id]
    ends = sorted({end for end in ends if end < len(tokenizer)})
    generation.eos_token_id = ends[0] if len(ends) == 1 else ends
    if tokenizer.eos_token_id not in _ends(config):
        config.eos_token_id = tokenizer.eos_token_id


def ends_of(model: nn.Module) -> list[int]:
    """The ids at which a language model's text ends; none where it says none."""
    return _ends(getattr(model, "generation_config", None)) or _ends(getattr(model, "config", None))


def _ends(config: Any) -> list[int]:
    """What a configuration takes for an end."""
    found = getattr(config, "eos_token_id", None)
    return [] if found is None else list(found) if isinstance(found, (list, tuple)) else [found]


def _is_input(model: nn.Module, module: nn.Module) -> bool:
    try:
        return module is model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return False


def _counts_from_padding(model: nn.Module) -> bool:
    return any(
        "position" in name.rpartition(".")[2] and isinstance(getattr(module, "padding_idx", None), int)
        for name, module in model.named_modules()
    )
