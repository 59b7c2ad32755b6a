"""An adapter of low rank, by peft: put beside a model's weights, merged into them, and in peft's own files.

The model stays what it is; some of its layers are replaced in place by those of peft. Imported where there is one.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import peft
import safetensors.torch
import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distill.core.task import Task, TextTask
from distill.core.utils.errors import UserError, first_line, nearest
from distill.models.compatibility import predicts_tokens
from distill.models.students.lora import LoraConfig

__all__ = ["adapter_files", "add_adapter", "remove_adapter"]

_KEY = "model.student.lora"
_NAME = "default"
_LINEAR = (nn.Linear, Conv1D)


class LoraHead(LoraLinear):  # type: ignore[misc]
    """A language model's head with an adapter, as one product (:mod:`distill.core.lazy_head`)."""

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """[x, s A x] and [W, B], whose product is W x + s B A x; the bias."""
        plain = self.get_base_layer()
        if self.disable_adapters or self.merged:
            return x, plain.weight, plain.bias
        low = self.lora_A[_NAME](self.lora_dropout[_NAME](x)) * self.scaling[_NAME]
        return torch.cat([x, low], -1), torch.cat([plain.weight, self.lora_B[_NAME].weight], -1), plain.bias


def add_adapter(model: Any, config: LoraConfig, task: Task) -> None:
    """Freeze ``model``, and put an adapter beside the linear maps that are named; it computes what it computed before.

    A is drawn from torch's global generator.

    Args:
        model: Of transformers; changed in place.
        config: Which layers, and of which rank.
        task: A classifier's head is trained too, if the configuration names no other modules.

    Raises:
        UserError: if there are no such layers, they are no linear maps, or share their weights with others.
    """
    saved = _saved(model, config, task)
    targets = _targets(model, config, saved)
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=_shortened(model, targets),
        modules_to_save=saved or None,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
        task_type=task.adapter if isinstance(task, TextTask) else None,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft.inject_adapter_in_model(settings, model, _NAME)
    except (ValueError, TypeError, RuntimeError) as error:
        problem = f"peft cannot put an adapter into this {type(model).__name__} ({first_line(error)})"
        raise UserError(problem, key=_KEY, hint="name other target_modules") from error
    head: Any = model.get_output_embeddings()
    if type(head) is LoraLinear:
        head.__class__ = LoraHead


def _saved(model: Any, config: LoraConfig, task: Task) -> list[str]:
    """Names of the modules that are trained in full."""
    if config.modules_to_save is None:
        heads = [
            name
            for name, child in model.named_children()
            if name != model.base_model_prefix and any(True for _ in child.parameters())
        ]
        return [] if predicts_tokens(task) else heads
    for index, name in enumerate(config.modules_to_save):
        key = f"{_KEY}.modules_to_save.{index}"
        found = _ending(model, name)
        if not found:
            last = {name.rpartition(".")[2] for name, _ in model.named_modules()} - {""}
            raise UserError("the student has no such module", key=key, value=name, hint=nearest(name, last))
        _refuse_tied(model, found, key)
    return list(config.modules_to_save)


def _targets(model: Any, config: LoraConfig, saved: Collection[str]) -> list[str]:
    """Full names of the layers that get an adapter."""
    linear = [name for name, module in model.named_modules() if isinstance(module, _LINEAR)]
    kept = {part for name in saved for part in _within(model, _ending(model, name))}
    if config.target_modules == "all-linear":
        head = model.get_output_embeddings()
        return [name for name in linear if model.get_submodule(name) is not head and name not in kept]
    targets: list[str] = []
    for index, name in enumerate(config.target_modules):
        key, found = f"{_KEY}.target_modules.{index}", _named(model, name)
        there = ", ".join(sorted({one.rpartition(".")[2] for one in linear}))
        if not found:
            hint = f"its linear maps are called {there}"
            raise UserError("the student has no such layer", key=key, value=name, hint=hint)
        if strange := [one for one in found if one not in linear]:
            kind = type(model.get_submodule(strange[0])).__name__
            problem = f"is a {kind}, and an adapter stands beside linear maps"
            raise UserError(problem, key=key, value=name, hint=f"name some of {there}")
        _refuse_tied(model, found, key)
        targets += [one for one in found if one not in targets and one not in kept]
    if not targets:
        problem = "are all trained in full (modules_to_save), and none is left for an adapter"
        raise UserError(problem, key=f"{_KEY}.target_modules", value=config.target_modules, hint="name others")
    return targets


def _named(model: nn.Module, name: str) -> list[str]:
    """The modules of this name, or whose name ends in it."""
    return [one for one, _ in model.named_modules() if one == name or one.endswith(f".{name}")]


def _ending(model: nn.Module, text: str) -> list[str]:
    """The modules whose name ends so, which is how peft finds those that are trained in full."""
    return [one for one, _ in model.named_modules() if one.endswith(text)]


def _within(model: nn.Module, names: Iterable[str]) -> set[str]:
    return {f"{name}.{inner}".rstrip(".") for name in names for inner, _ in model.get_submodule(name).named_modules()}


def _refuse_tied(model: nn.Module, names: Iterable[str], key: str) -> None:
    """Refuse modules whose weight is another's too: merged, or trained, it would change both."""
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for name in names:
        if any(holders[id(parameter)] > 1 for parameter in model.get_submodule(name).parameters()):
            problem = "shares its weight with another layer (tie_word_embeddings), which would change with it"
            raise UserError(problem, key=key, value=name, hint="leave it out")


def _shortened(model: nn.Module, names: Collection[str]) -> list[str]:
    """``names`` by their last part, where that names no other module: so peft's own files are read by people."""
    last = {name.rpartition(".")[2] for name in names}
    same = {one for one, _ in model.named_modules() if one.rpartition(".")[2] in last}
    return sorted(last if same == set(names) else names)


def adapter_files(model: Any, base: str) -> dict[str, bytes]:
    """Name -> content of the files that ``PeftModel.from_pretrained`` opens beside the model ``base``."""
    state = peft.get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    weights = {f"base_model.model.{name}": t.detach().cpu().contiguous() for name, t in state.items()}
    settings = model.peft_config[_NAME].to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    return {
        "adapter_config.json": (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode(),
        "adapter_model.safetensors": safetensors.torch.save(weights, {"format": "pt"}),
    }


@torch.no_grad()
def remove_adapter(model: nn.Module, *, merge: bool) -> None:
    """Give ``model`` its plain layers back, in place.

    Args:
        model: With an adapter.
        merge: Whether their weight is then W + s B A, and what was trained in full stays; or all is as it was before.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            if merge:
                module.merge()
            plain = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            plain = module.modules_to_save[_NAME] if merge else module.original_module
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain)
    del model.peft_config
