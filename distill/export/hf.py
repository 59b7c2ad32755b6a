"""The target ``hf``: a folder that ``AutoModel.from_pretrained`` opens."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from distill.core.answer import LOGITS
from distill.core.record import STEP_KINDS, steps_of
from distill.core.utils.errors import UserError
from distill.core.utils.quiet import quiet_transformers
from distill.export.base import ExportTarget, Predict
from distill.export.fit import Obstacle
from distill.export.script import COUNT, Lines
from distill.export.verify import torch_logits

__all__ = ["HuggingFace", "by_from_pretrained", "open_huggingface", "structure", "to_huggingface"]

_STRUCTURE = {
    "remove": "some of its heads, neurons or layers were taken out",
    "low_rank": "some of its linear maps are products of two",
    "share": "some of its layers share their weights",
}
"""Kinds of steps whose outcome no configuration of transformers describes -> what they do.

So are the structural ones of a compression of one's own.
"""


class HuggingFace(ExportTarget):
    """A folder for ``from_pretrained``, with plain weights."""

    name = "hf"
    halves = True

    def obstacles(self, student: nn.Module) -> Iterable[Obstacle]:
        return structure(student)

    def check(self, student: nn.Module) -> None:
        super().check(student)
        quantized = any(step["kind"] == "quantize" for step in steps_of(student))
        if quantized and self.dtype != "float32":
            problem, hint = "would round weights that lie on grids of their own", "leave it out"
            raise UserError(problem, key="--dtype", value=self.dtype, hint=hint)

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        assert isinstance(student, PreTrainedModel)
        if self.dtype == "float32":
            to_huggingface(student, folder)
            return {}
        to_huggingface(copy.deepcopy(student).to(getattr(torch, self.dtype)), folder)
        return {"dtype": self.dtype}

    def open(self, folder: Path) -> Predict:
        return open_huggingface(folder)

    def lines(self, student: nn.Module) -> Lines | None:
        return by_from_pretrained(student)


def by_from_pretrained(student: nn.Module, given: str = "", packages: tuple[str, ...] = ()) -> Lines | None:
    """Lines that open a folder by the student's class; ``None`` where that is none of transformers itself.

    Args:
        student: A model of transformers.
        given: What ``from_pretrained`` is given besides.
        packages: What it needs besides.
    """
    name = type(student).__name__
    if not hasattr(transformers, name):
        return None
    return Lines(
        packages=("torch", "transformers", *packages),
        imports=(f"from transformers import {name}",),
        opens=(f"model = {name}.from_pretrained(folder{given}).eval()",),
        logits=f"{LOGITS}.detach().float().numpy()",
        tensors="pt",
        writes=f"model.generate(**inputs, max_new_tokens={COUNT})[0]",
    )


def open_huggingface(folder: Path) -> Predict:
    """The model in ``folder``, by ``from_pretrained`` of its class."""
    with quiet_transformers():
        [name] = AutoConfig.from_pretrained(folder).architectures
        # Computed in float32, whatever it is kept in.
        opened: nn.Module = _model_class(name).from_pretrained(folder, dtype=torch.float32)
    return torch_logits(opened.eval())


def _model_class(name: str) -> Any:
    """The class of that name, of transformers or of the user's own code, which defined it when it was trained."""
    return getattr(transformers, name, None) or next(k for k in _subclasses(PreTrainedModel) if k.__name__ == name)


def _subclasses(kind: Any) -> Iterator[Any]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def structure(model: nn.Module) -> Iterator[Obstacle]:
    """What keeps transformers from opening a model by its configuration."""
    if not isinstance(model, PreTrainedModel):
        yield Obstacle(f"{type(model).__name__} is none of the models of transformers")
    for kind in dict.fromkeys(step["kind"] for step in steps_of(model)):
        if STEP_KINDS[kind] and kind != "quantize":
            yield Obstacle(_STRUCTURE.get(kind, "its structure is none that a configuration describes"), kind)


def to_huggingface(
    model: PreTrainedModel,
    folder: Path,
    *,
    without: Collection[str] = (),
    beside: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write the plain weights of ``model`` and its configuration.

    Args:
        model: With plain layers. What it holds besides the weights of its class (masks, scales) is left out.
        folder: Where to.
        without: Names of weights that are left out.
        beside: What is written beside the others.
    """
    with torch.device("meta"):
        names = set(type(model)(model.config).state_dict()).difference(without)
    with quiet_transformers():
        weights = {name: value for name, value in model.state_dict().items() if name in names}
        model.save_pretrained(folder, state_dict={**weights, **beside})
    for file in folder.glob("*.safetensors"):
        file.chmod((folder / "config.json").stat().st_mode)  # safetensors lets only their owner read them
