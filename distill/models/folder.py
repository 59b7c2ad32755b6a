"""A folder with a model of transformers, judged by its small files before anything large is made of it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig

from distill.core.utils.errors import UserError, nearest
from distill.core.utils.quiet import quiet_transformers
from distill.models.broken_files import ORIGIN, broken_json, culprit, taken_in_silence

__all__ = [
    "MERGE",
    "UNMERGED",
    "check_config",
    "check_entries",
    "check_folder",
    "check_memory",
    "check_sizes",
    "parameters_of",
    "read_config",
]

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "tf_model.h5", "flax_model.msgpack")

_CORE = re.compile(
    r"(num_hidden_layers|n_layers?|num_layers|hidden_size|n_embd|d_model|dim|vocab_size|num_attention_heads|n_heads?)"
)
_COUNT = re.compile(r"\w*(layers|heads|experts|blocks)|n_layer|n_head|num_labels")
_SIZE = re.compile(r"\w*(size|_dim|positions?|embeddings|d_model|d_ff|n_embd|n_inner|vocab\w*|_ctx|_width)|dim")

MOST_LAYERS, MOST_OF_A_KIND, LARGEST = 1_000, 100_000, 1 << 24
"""Layers, heads or experts, and any other size, beyond which no model is made: what there is has far fewer."""

ROOM = 1 << 26
"""Parameters that a model may have more than its weights: a head of many classes is made anew."""

_DEEPEST = 32
_CONFIG_BYTES = 16 << 20


def check_folder(folder: Path, path: str, auto_model: Any, key: str) -> None:
    """Refuse a folder that transformers would stumble over, be long about, or run code of.

    Args:
        folder: Where it is.
        path: As the user wrote it.
        auto_model: The ``AutoModelFor...`` class of the task.
        key: The configuration key of ``path``.

    Raises:
        UserError: if there is no config.json, or one that describes no model that can be made here; if the weights are
            pickles or missing, or far fewer than it describes; if generation_config.json cannot be read.
    """

    refuse = partial(_refusal, key, path)
    if (folder / "adapter_config.json").is_file():  # beside a model, which transformers reads only where peft is there
        raise refuse(UNMERGED, MERGE)
    if not (folder / "config.json").is_file():
        raise refuse("this folder holds no model of transformers: it has no config.json", _SAVED)
    check_config(folder, path, key)
    if problem := broken_json(folder, "generation_config.json"):  # without which transformers goes on in silence
        raise refuse(problem, "take the file from the model's origin, or remove it")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        if pickled:
            convert = (
                f'if you trust its origin convert it once: python -c "from transformers import {auto_model.__name__} '
                f"as M; M.from_pretrained('{path}', use_safetensors=False).save_pretrained('{path}')\""
            )
            raise refuse(
                f"the weights are stored only as {pickled[0]}, a format that can run code when it is read", convert
            )
        raise refuse("this folder holds no *.safetensors weights", "save the model anew")
    _check_amount(folder, auto_model, _stored(files, refuse), refuse)


_SAVED = "give the folder that save_pretrained wrote"

UNMERGED = "there is an adapter of peft (adapter_config.json), which is no part of the weights"
MERGE = "save what merge_and_unload() of peft's model gives, and name that"


def _refusal(key: str, path: str, problem: str, hint: str) -> UserError:
    return UserError(problem, key=key, value=path, hint=hint)


def check_config(folder: Path, path: str, key: str) -> None:
    """Refuse a folder whose config.json, where it has one, describes no model that can be made here.

    Raises:
        UserError: saying what is wrong with it.
    """
    if (folder / "config.json").is_file():
        refuse = partial(_refusal, key, path)
        config = _read(folder / "config.json", refuse)
        _check_type(config, refuse)
        check_sizes(config, refuse)
        check_entries(config, refuse, "in its config.json ")
        try:
            with quiet_transformers():
                AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # configurations check themselves, each in its own way
            found, told = culprit(config, str(error)), " ".join(str(error).split())[:200]
            problem = f"transformers cannot read its config.json ({told})"
            if found is not None and found.name.rpartition(".")[2] not in told:
                problem = f"in its config.json {found} ({told})"
            raise refuse(problem, found.hint if found else ORIGIN) from error


def read_config(location: str, path: str, key: str) -> Any:
    """The configuration at ``location``, a folder or a name on the hub, of sizes that a model can be made of.

    transformers makes a name for each of ``num_labels`` as it reads.

    Raises:
        UserError: as :func:`check_config`.
    """
    check_config(Path(location), path, key)
    return AutoConfig.from_pretrained(location, trust_remote_code=False)


def _read(file: Path, refuse: Any) -> dict[str, Any]:
    if file.stat().st_size > _CONFIG_BYTES:
        raise refuse(f"its config.json is of {file.stat().st_size:,} bytes, as no model's is", _SAVED)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise refuse(f"its config.json is no JSON ({reason})", _SAVED) from error
    if not isinstance(config, dict):
        raise refuse(f"its config.json is a {type(config).__name__}, not a mapping", _SAVED)
    if _depth(config) > _DEEPEST:
        raise refuse(f"its config.json is nested more than {_DEEPEST} deep", _SAVED)
    return config


def _depth(value: Any) -> int:
    """How deep mappings and lists are nested, as far as it matters."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        level = [
            part
            for one in level
            for part in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        depth += 1
    return depth


def _check_type(config: Mapping[str, Any], refuse: Any) -> None:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return
    if config.get("auto_map"):
        problem = "its architecture is code of its own (auto_map in config.json), and no code of a model is run here"
        raise refuse(problem, "name a model whose architecture is part of transformers")
    if kind is None:  # transformers would guess it off the folder's name
        raise refuse("its config.json has no model_type", _SAVED)
    kind = kind if isinstance(kind, str) else repr(kind)
    problem = f"its model_type is {kind}, which this version of transformers does not know"
    raise refuse(problem, nearest(kind, CONFIG_MAPPING.keys()))


def check_sizes(config: Mapping[str, Any], refuse: Any) -> None:
    """Refuse sizes that are none, and those that nothing could be made of.

    Args:
        config: Entries of a configuration of transformers; of those inside it too.
        refuse: Makes the error of a problem and a hint.

    Raises:
        UserError: naming the entry.
    """
    hint = "correct it, or take the configuration from the model's origin"
    for name, value in _entries(config):
        sized = _COUNT.fullmatch(name) or _SIZE.fullmatch(name)
        if not sized or value is None:
            continue
        if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[\d.,_e]+\s*", value):
            raise refuse(f"{name} must be a number and is the text {value!r}", hint)
        core = _CORE.fullmatch(name)
        if core and not (isinstance(value, int) and not isinstance(value, bool)):
            raise refuse(f"{name} must be an integer and is {value!r}", hint)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if not math.isfinite(value) or (core and value < 1):
            raise refuse(f"{name} must be at least 1 and is {value!r}", hint)
        layers = core and "layer" in name
        most = MOST_LAYERS if layers else MOST_OF_A_KIND if _COUNT.fullmatch(name) else LARGEST
        if value > most:
            raise refuse(f"{name} is {value:,}, and models are made of up to {most:,}", hint)


def check_entries(config: Mapping[str, Any], refuse: Any, where: str = "") -> None:
    """Refuse entries that no model can have, and that transformers takes: an epsilon below 0, a dropout of 2.

    Raises:
        UserError: as :func:`check_sizes`.
    """
    if found := taken_in_silence(config):
        raise refuse(f"{where}{found}", found.hint)


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a configuration and of those inside it."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            if name.endswith("config") or "model_type" in value:
                yield from _entries(value)
        else:
            yield str(name), value


def _stored(files: list[Path], refuse: Any) -> int:
    """How many parameters the files hold; only their headers are read."""
    count = 0
    for file in files:
        try:
            with safe_open(file, framework="np") as opened:
                count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise refuse(f"{file.name} is no file of safetensors, or cut off ({error})", "copy it once more") from error
    return count


def _check_amount(folder: Path, auto_model: Any, stored: int, refuse: Any) -> None:
    """Refuse a model that is far larger than its weights, before room is made for it.

    Whether each weight fits is judged when it is loaded; a head may be missing, and integers may be packed.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        described = parameters_of(auto_model, config)
    except Exception:  # which loading meets again, and explains
        return
    if described > 16 * stored + ROOM:
        problem = f"its config.json describes {described:,} parameters, and the weights are {stored:,}"
        raise refuse(problem, "they are not of one model: save it anew")
    check_memory(described, refuse)


def parameters_of(auto_model: Any, config: Any) -> int:
    """How many parameters a model of ``config`` has, tied ones once; nothing is allocated."""
    with quiet_transformers(), torch.device("meta"):
        return sum(p.numel() for p in auto_model.from_config(config).parameters())


def check_memory(parameters: int, refuse: Any) -> None:
    """Refuse a model whose weights alone, in float32, do not fit into this machine's memory.

    Raises:
        UserError: with both numbers.
    """
    needed, there = 4 * parameters, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        problem = f"{parameters:,} parameters take {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f}"
        raise refuse(problem, "choose smaller sizes, or a larger machine")
