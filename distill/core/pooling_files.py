"""The files of sentence-transformers that say how a model pools: read beside a model, and written beside a student."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from distill.core.model_spec import ModelSpec
from distill.core.pooling import MODES, Pooling, pooling_of
from distill.core.utils.errors import UserError

__all__ = ["MODULES", "pooling_files", "read_pooling", "write_pooling"]

MODULES = "modules.json"
"""Names a model's parts in order: the encoder, what pools, what normalizes."""

_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
_PARTS = "sentence_transformers.models"
"""Where its classes lay in every version that there was: later ones read these names too."""

_ENDLESS = 10**9  # what transformers has where a tokenizer names no length lies far above

_FLAGS = {
    "cls_token": "cls",
    "mean_tokens": "mean",
    "max_tokens": "max",
    "lasttoken": "lasttoken",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
}
"""The end of a flag ``pooling_mode_...``, as files before version 5 have them -> what it is called now."""


def read_pooling(read: Callable[[str], Any]) -> Pooling | None:
    """How the model of a folder pools; ``None`` where it has none of these files.

    Args:
        read: Gives the content of a JSON file by its name, ``None`` where it is not there.

    Raises:
        UserError: if it has parts that are none of encoder, pooling and normalization, or pools otherwise.
    """
    modules = read(MODULES)
    if modules is None:
        return None
    parts = modules if isinstance(modules, list) else []
    kinds = [str(part.get("type", "")).rpartition(".")[2] for part in parts if isinstance(part, Mapping)]
    if "Transformer" not in kinds[:1] or not set(kinds[1:]) <= {"Pooling", "Normalize", "Dropout"}:
        other = next((kind for kind in kinds[1:] if kind not in ("Pooling", "Normalize", "Dropout")), None)
        problem = f"in its {MODULES} there is a {other}" if other else f"its {MODULES} begins with no Transformer"
        hint = "take a model that is an encoder, a pooling and perhaps a normalization"
        raise UserError(problem, key=MODULES, value=kinds, hint=hint)
    place = next((str(part.get("path", "")) for part in parts if str(part.get("type")).endswith("Pooling")), _POOLING)
    return Pooling(_mode(read(f"{place}/config.json")), "Normalize" in kinds)


def _mode(config: Any) -> str:
    """The one mode that a pooling's configuration names.

    Raises:
        UserError: if it names none, several, or one that there is not here.
    """
    config = config if isinstance(config, Mapping) else {}
    given = config.get("pooling_mode")
    named = given if isinstance(given, list) else [given] if given is not None else []
    flags = {name.removeprefix("pooling_mode_") for name, on in config.items() if on is True}
    modes = [str(mode) for mode in named] or [mode for flag, mode in _FLAGS.items() if flag in flags]
    if len(modes) != 1 or modes[0] not in MODES:
        problem = f"its {_POOLING}/config.json pools by {' and '.join(modes) or 'nothing that is known'}"
        hint = f"take a model that pools by one of {', '.join(MODES)}"
        raise UserError(problem, key="pooling_mode", value=modes, hint=hint)
    return modes[0]


def pooling_files(pooling: Pooling, width: int, max_length: int | None) -> dict[str, str]:
    """Name -> content of the files with which sentence-transformers opens a folder of transformers.

    Args:
        pooling: How its vectors are made.
        width: Of a vector.
        max_length: Most tokens of a text; what the tokenizer says if not given.
    """
    parts = [("", "Transformer"), (_POOLING, "Pooling")] + ([(_NORMALIZE, "Normalize")] if pooling.normalize else [])
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{_PARTS}.{kind}"} for i, (path, kind) in enumerate(parts)
    ]
    flags = {f"pooling_mode_{flag}": mode == pooling.mode for flag, mode in _FLAGS.items()}
    files: dict[str, Any] = {
        MODULES: modules,
        f"{_POOLING}/config.json": {"word_embedding_dimension": width, **flags},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
    if pooling.normalize:
        files[f"{_NORMALIZE}/config.json"] = {}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()}


def write_pooling(folder: Path, model: nn.Module, tokenizer: Any = None) -> None:
    """Put :func:`pooling_files` beside a model that makes vectors; of any other, nothing.

    Args:
        folder: Of the model.
        model: Of transformers.
        tokenizer: Tells the most tokens of a text.
    """
    pooling = pooling_of(model)
    if pooling is None:
        return
    longest = getattr(tokenizer, "model_max_length", None)
    longest = longest if isinstance(longest, int) and longest < _ENDLESS else None
    for name, text in pooling_files(pooling, ModelSpec(model, "model").hidden_size, longest).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
