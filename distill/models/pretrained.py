"""Loading models and tokenizers of transformers, with errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel

from distill.core.internals.peft import adapter_layers
from distill.core.internals.transformers import class_made_by
from distill.core.record import note, read_steps, structural
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve
from distill.core.utils.quiet import quiet_transformers
from distill.models.broken_files import ORIGIN, broken_json, culprit, read_mapping
from distill.models.folder import MERGE, UNMERGED, check_config, check_folder
from distill.models.saved_student import load
from distill.models.untaken import refuse_unrecorded_integers, refuse_untaken

__all__ = ["FAILURES", "explain", "load_model", "load_tokenizer", "mark_padding", "not_given"]

FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    UnpicklingError,
    SafetensorError,
    StrictDataclassError,
    HfHubHTTPError,
)
"""What transformers raises for a folder, name or configuration that is not right."""

_INDEXES = ("model.safetensors.index.json", "generation_config.json")
_NUMBER = re.compile(r"\.\d+\.")
_NOT_GIVEN = re.compile("do not have access|not a valid model identifier|connect to")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}


def load_model(
    path: str,
    auto_model: Any,
    key: str,
    *,
    head: dict[str, Any],
    attn_implementation: str | None = None,
    dtype: str | None = None,
    trained: bool = False,
) -> PreTrainedModel:
    """The model at ``path``, in eval mode on the host.

    Where the checkpoint has no head for the task (or one of another number of classes), the head is made
    anew; everything below it must be there.

    Args:
        path: Hub id, folder, earlier run, or ``distill:`` folder.
        auto_model: The ``AutoModelFor...`` class of the task.
        key: The configuration key of ``path``, for error messages.
        head: Entries of the configuration that the task sets (``num_labels``, ``id2label``).
        attn_implementation: ``eager``, ``sdpa``, ...; the fastest that there is if not given.
        dtype: ``float32`` (also if not given), ``bfloat16``, ``float16`` or ``auto``, as it is stored.
        trained: Refuse a model whose head would have to be made anew: a teacher.

    Raises:
        UserError: if there is no such model, it is stored as a pickle, it cannot do the task, or it is incomplete.
    """
    location = resolve(path, key)
    steps: list[dict[str, Any]] = []
    if Path(location).is_dir():
        check_folder(Path(location), path, auto_model, key)
        refuse_unrecorded_integers(Path(location), key, path)
        steps = read_steps(location, key)
    if structural(steps):
        return _compressed(location, path, auto_model, key, attn_implementation)
    try:
        with quiet_transformers():
            model, report = auto_model.from_pretrained(
                location,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told apart below: a head may differ, the rest may not
                dtype=_DTYPES[dtype or "float32"],
                **({"attn_implementation": attn_implementation} if attn_implementation else {}),
                **head,
            )
    except UserError as error:  # of the files beside it
        raise UserError(error.problem, key=key, value=path, hint=error.hint) from error
    except Exception as error:  # a configuration that is not right can make a modelling file stumble anywhere
        raise explain(error, auto_model, key, path, attn_implementation) from error
    if adapter_layers(model):
        raise UserError(UNMERGED, key=key, value=path, hint=MERGE)
    _check_complete(model, report, path, key, trained)
    refuse_untaken(model, report["unexpected_keys"], Path(location), key, path, any_head=not trained)
    mark_padding(model, auto_model)
    note(model, *steps)
    return model  # type: ignore[no-any-return]


def _compressed(
    location: str, path: str, auto_model: Any, key: str, attn_implementation: str | None
) -> PreTrainedModel:
    """A model whose structure transformers does not know: its head is the one it was saved with."""
    try:
        model = load(location)
    except UserError as error:
        raise UserError(error.problem, key=key, value=path, hint=error.hint) from error
    wanted = class_made_by(auto_model, getattr(model, "config", None))
    if not isinstance(model, PreTrainedModel) or not isinstance(model, wanted or ()):
        raise UserError(
            f"this is a compressed {type(model).__name__}, which cannot do this task ({auto_model.__name__})",
            key=key,
            value=path,
            hint="name a model that was trained on the task",
        )
    if attn_implementation is not None:
        try:
            model.set_attn_implementation(attn_implementation)
        except FAILURES as error:
            raise explain(error, auto_model, key, path, attn_implementation) from error
    mark_padding(model, auto_model)
    return model


def mark_padding(model: PreTrainedModel, auto_model: Any) -> None:
    """Let the end of text be the padding of a classifier that has none, until its data gives another.

    Decoders classify at the last token that is no padding, and refuse batches if they do not know it. The tokenizer
    that makes the batches has the last word (:func:`distill.models.tokens.set_padding`).
    """
    text = model.config.get_text_config()
    if "Classification" in auto_model.__name__ and getattr(text, "pad_token_id", None) is None:
        ends = getattr(text, "eos_token_id", None)
        text.pad_token_id = ends[0] if isinstance(ends, list) else ends


def _check_complete(model: PreTrainedModel, report: dict[str, Any], path: str, key: str, trained: bool) -> None:
    """Refuse a checkpoint that lacks more than the head, or anything at all where it must be ``trained``."""
    misfits = {name: (stored, wanted) for name, stored, wanted in report["mismatched_keys"]}
    fresh = sorted(set(report["missing_keys"]) | set(misfits))
    headless = model.base_model is model  # all of it is below
    prefix = "" if headless else f"{model.base_model_prefix}."
    below = [name for name in fresh if name.startswith(prefix) and "pooler." not in name]
    if below and below[0] in misfits:
        stored, wanted = misfits[below[0]]
        raise UserError(
            f"the weights do not fit the model's config.json: {below[0]} is {tuple(stored)} and not {tuple(wanted)}",
            key=key,
            value=path,
            hint="save the model anew",
        )
    if below:
        problem = f"the weights are not those of a {type(model).__name__}, as config.json has it: they lack {below[0]}"
        raise UserError(problem, key=key, value=path, hint="save the model anew")
    if beyond := _beyond(model, report["unexpected_keys"]):
        problem = f"the weights have layers that config.json does not: {beyond}"
        hint = "correct its number of layers; a student of some layers is had by model.student.layers"
        raise UserError(problem, key=key, value=path, hint=hint)
    if trained and fresh:
        raise UserError(
            f"this model has no trained head for the task: {', '.join(fresh[:3])} would be random",
            key=key,
            value=path,
            hint="fine-tune it on the task first, or name a model that was",
        )


def _beyond(model: PreTrainedModel, unexpected: Iterable[str]) -> str | None:
    """The first weight of a layer after those that the model has; a base model's names lack the prefix."""
    prefix = f"{model.base_model_prefix}."
    names = {one for name in model.state_dict() for one in (name, name.removeprefix(prefix))}
    parts = {one for name, _ in model.named_modules() for one in (name, name.removeprefix(prefix))}
    alike = {_NUMBER.sub(".#.", name) for name in names}
    for name in sorted(unexpected):
        missing = any(name[: at.end() - 1] not in parts for at in _NUMBER.finditer(name))
        if missing and _NUMBER.sub(".#.", name) in alike:
            return name
    return None


def explain(error: Exception, auto_model: Any, key: str, value: object, attn_implementation: str | None) -> UserError:
    """What transformers could not load or build, as an error of ours."""
    text = str(error).strip()
    if text.startswith("Unrecognized configuration class"):
        kind = text.split("'")[1].rsplit(".", 1)[-1].removesuffix("Config") if "'" in text else "this"
        return UserError(
            f"a model of architecture {kind} cannot do this task ({auto_model.__name__})",
            key=key,
            value=value,
            hint="name another model, or another task",
        )
    if missing := not_given(error, key, value):
        return missing
    if isinstance(error, UnpicklingError):  # an index of safetensors that leads to something else
        return UserError(
            "its weights are a pickle of more than tensors, which can run code when it is read",
            key=key,
            value=value,
            hint="do not use it, or ask where it comes from for safetensors",
        )
    if attn_implementation is not None and re.search("attn_implementation|FlashAttention|attention impl", text):
        return UserError(
            f"this attention implementation cannot be used ({_first_sentence(text)})",
            key=key.rpartition(".")[0] + ".attn_implementation",
            value=attn_implementation,
            hint="eager and sdpa always work, or leave it out",
        )
    if "safetensors" in text and "no file" in text.lower():
        return UserError(
            "this model has no safetensors weights, and others can run code when they are read",
            key=key,
            value=value,
            hint=f"if you trust its origin convert it: {auto_model.__name__}.from_pretrained, then save_pretrained",
        )
    problem, hint = f"transformers cannot make a model of this ({_first_sentence(text)})", "check the path"
    folder = Path(resolve(value, key)) if isinstance(value, str) else Path()
    given = value if isinstance(value, Mapping) else read_mapping(folder / "config.json")
    if found := culprit(given, text):
        whose = "" if given is value else "in its config.json "
        problem, hint = f"{whose}{found} ({_first_sentence(text)})", found.hint
    elif given and given is not value:
        problem, hint = broken_json(folder, *_INDEXES) or problem, "take the folder anew from the model's origin"
    elif given:
        hint = "correct its entries"
    return UserError(problem, key=key, value=value, hint=hint)


def not_given(error: Exception, key: str, value: object) -> UserError | None:
    """What to say if ``error`` is the hub's refusal of a model, or that it cannot be reached; else ``None``."""
    if not _NOT_GIVEN.search(str(error)):
        return None
    hint = "check the name and the connection, or give a local folder"
    if key == "model.student.path":
        part = "--model.student.path null --model.student.layers uniform --model.student.num_layers 0.5"
        hint += f"; for half of the teacher's layers: {part}"
    problem = "there is no such folder, and the hub did not give a model of that name"
    return UserError(problem, key=key, value=value, hint=hint)


def load_tokenizer(path: str, key: str, *, words: bool = False, pads_with_eos: bool = True) -> Any:
    """The tokenizer at ``path``.

    Args:
        path: Hub id, folder or run.
        key: Where it stands in the configuration.
        words: Whether it will read words that are split already: byte-level ones then put a space before each.
        pads_with_eos: Whether the end of text becomes the padding token of one that has none.

    Raises:
        UserError: if there is none.
    """
    location = resolve(path, key)
    check_config(Path(location), path, key)
    try:
        with quiet_transformers():
            options = {"add_prefix_space": True} if words else {}
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **options)
    except Exception as error:  # the files of a stranger can make it stumble anywhere
        if missing := not_given(error, key, path):
            raise missing from error
        problem = broken_json(Path(location)) or f"no tokenizer could be loaded ({_first_sentence(str(error))})"
        raise UserError(problem, key=key, value=path, hint="give a folder or hub id with its tokenizer.json") from error
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float):
        problem = f"in its tokenizer_config.json model_max_length is {longest!r}, and must be a number"
        raise UserError(problem, key=key, value=path, hint=ORIGIN)
    # Where a folder holds nothing but config.json, transformers makes one that knows its special tokens only.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UserError("no tokenizer is saved there", key=key, value=path, hint="name the folder or hub id of its own")
    if pads_with_eos and tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).split(". ", 1)[0][:240].rstrip(".")
