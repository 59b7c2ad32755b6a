"""A teacher whose last hidden states were computed elsewhere: files of vLLM's ExampleHiddenStatesConnector.

Each ``NAME.safetensors`` is of one request: ``token_ids`` ``[n]``, and ``hidden_states`` ``[n, L, H]`` of the L layers
that were asked for, in their order. The layer with the number ``num_hidden_layers`` is what leaves the last one, before
the model's final norm, which is applied here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig

from distill.core.layer_config import keep_in_config
from distill.core.lazy_head import headless, why_not_lazy
from distill.core.lazy_logits import LazyLogits
from distill.core.model_call import call
from distill.core.model_spec import ModelSpec
from distill.core.signals import IGNORE, Batch, Request, Signals
from distill.core.task import TextTask
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve
from distill.core.utils.quiet import quiet_transformers
from distill.models.pretrained import explain
from distill.models.teachers.documents import Document, documents
from distill.models.teachers.fingerprint import fingerprint
from distill.models.teachers.recorded.codecs import at_positions
from distill.models.untaken import refuse_untaken

__all__ = ["HiddenStates", "StoredStates"]

_KEY = "--from-hidden-states"
_HINT = "ask vLLM for the layer with the number num_hidden_layers, last: eagle_aux_hidden_state_layer_ids: [N]"


class StoredStates:
    """The files of a folder, by the token ids that they are of.

    Raises:
        UserError: if there are none, or one of them is in another form.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[bytes, Path] = {}
        for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            try:
                with safe_open(str(file), "pt") as opened:
                    ids, shape = opened.get_tensor("token_ids").flatten().tolist(), self._shape(opened)
            except (OSError, SafetensorError) as error:
                problem = f"{file.name} is no file of vLLM's connector ({' '.join(str(error).split())[:120]})"
                raise UserError(problem, key=_KEY, value=str(folder), hint="name the connector's folder") from None
            if len(shape) not in (2, 3) or shape[0] != len(ids):
                problem = f"{file.name} has hidden states of the shape {list(shape)} for {len(ids)} tokens"
                raise UserError(problem, key=_KEY, value=str(folder), hint="record it anew with vLLM")
            self._files[_bytes(ids)] = file
            self._files.setdefault(_bytes(ids[:-1]), file)  # a label may have been sent behind the inputs
            self.width = shape[-1]
        if not self._files:
            hint = "name the folder that shared_storage_path named for vLLM"
            raise UserError(
                "holds no files of vLLM's connector (*.safetensors)", key=_KEY, value=str(folder), hint=hint
            )

    @staticmethod
    def _shape(opened: Any) -> tuple[int, ...]:
        return tuple(opened.get_slice("hidden_states").get_shape())

    def lacking(self, wanted: Iterable[Document]) -> tuple[int, int]:
        """How many of some documents have no states, and how many there are."""
        there = [_bytes(document.prompt[:-1]) in self._files for document in wanted]
        return there.count(False), len(there)

    def of(self, document: Document) -> Tensor:
        """Its states at the places that count, ``[n, H]``, as they were stored.

        Raises:
            UserError: if there are none.
        """
        if (file := self._files.get(_bytes(document.prompt[:-1]))) is None:
            raise UserError("there are no hidden states of a document", key=_KEY, value=str(self.folder), hint=_LACKING)
        with safe_open(str(file), "pt") as opened:
            states: Tensor = opened.get_tensor("hidden_states")
        return (states if states.dim() == 2 else states[:, -1])[document.places]


_LACKING = "have vLLM run the prompts that distill record -c RECIPE --write-prompts FILE writes"


class HiddenStates(TeacherSource):
    """Gives lazy logits of stored states: the final norm and the head are the teacher's own.

    Of the teacher only its embeddings, its first layer, its final norm and its head are loaded.

    Args:
        states: What was stored.
        path: Of the teacher: a folder or hub id.
        task: A language model's.
        tokenizer: Of the data, which is the teacher's.

    Raises:
        UserError: if the teacher cannot be loaded, has no final norm right before its head, or is of another width.
    """

    def __init__(self, states: StoredStates, path: str, task: TextTask, tokenizer: Any) -> None:
        self._states, self._tokenizer, self._path = states, tokenizer, path
        self.config, self.model = _first_layer(path, task)
        if why := why_not_lazy(self.model):
            raise self._unusable(f"needs a teacher whose logits are the product of a head: {why}")
        self._norm, self._head = _final_norm(self.model)
        if self._norm is None:
            raise self._unusable("the teacher has no final norm right before its head")
        if (width := self._head.weight.shape[1]) != states.width:
            raise self._unusable(f"the states have {states.width} numbers, and the teacher's head reads {width}")
        self._judged = False

    def _unusable(self, problem: str, hint: str = "name the teacher that vLLM ran: model.teacher.path") -> UserError:
        return UserError(problem, key=_KEY, value=str(self._states.folder), hint=hint)

    @property
    def models(self) -> list[nn.Module]:
        return []

    @property
    def tokenizers(self) -> list[Any]:
        return [self._tokenizer]

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(self.model, "model.teacher")

    @property
    def fingerprint(self) -> str:
        """Of what is loaded of it, which is not all."""
        return f"hidden states {fingerprint(self.model, self._tokenizer)}"

    def signals(self, batch: Batch, request: Request) -> Signals:
        return self.evaluate(batch)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Signals:
        """:attr:`Signals.lazy_logits`, 0 where nothing counts.

        Raises:
            UserError: if a document has no states, or the first ones are not what leaves the last layer.
        """
        stored = torch.cat([self._states.of(document) for document in documents(batch)]).float()
        assert self._norm is not None
        read = self._norm(stored)
        if not self._judged:
            self._judge(stored, read, batch)
        return Signals(lazy_logits=replace(self._head, hidden=at_positions(read, batch)))

    def _judge(self, stored: Tensor, read: Tensor, batch: Batch) -> None:
        """Refuse states that are those of another place, as far as that shows."""
        assert self._norm is not None
        self._judged = True
        if not bool(torch.isfinite(stored).all()):
            raise self._unusable("the states are not finite", "record them anew")
        scale = self._norm(torch.ones_like(stored[:1]))  # of a root mean square norm: its weight
        if bool((scale != 0).all()):
            sizes = (stored / scale).square().mean(1)
            if bool(((sizes - 1).abs() < 0.02).all()):
                raise self._unusable("the states have been through the final norm already", _HINT)
        labels = batch.labels[batch.labels != IGNORE if batch.mask is None else batch.mask]  # type: ignore[index]
        nats = float(nn.functional.cross_entropy(replace(self._head, hidden=read).block(slice(None)), labels))
        if nats > math.log(self._head.width) + 0.5:
            problem = f"they predict their texts worse than chance ({nats:.1f} nats a token)"
            raise self._unusable(f"the states are none of the last layer of this teacher: {problem}", _HINT)

    def to(self, device: torch.device | str) -> Self:
        return self

    def state_dict(self, own: bool = False) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor], of_all: Mapping[str, Tensor] | None = None) -> None:
        """Nothing is remembered."""


def _bytes(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, np.int32).tobytes()


def _first_layer(path: str, task: TextTask) -> tuple[Any, nn.Module]:
    """The configuration of the model at ``path``, and the model with one layer, in float32."""
    location, key = resolve(path, "model.teacher.path"), "model.teacher.path"
    try:
        with quiet_transformers():
            config, less = (AutoConfig.from_pretrained(location, trust_remote_code=False) for _ in range(2))
            keep_in_config(less, [1])
            model, report = task.auto_model.from_pretrained(
                location,
                config=less,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except UserError:
        raise
    except Exception as error:
        raise explain(error, task.auto_model, key, path, None) from error
    if missing := sorted(report["missing_keys"]):
        problem, hint = f"its weights lack {missing[0]}", "name a complete model"
        raise UserError(problem, key=key, value=path, hint=hint)
    refuse_untaken(model, report["unexpected_keys"], Path(location), key, path)
    return config, model.requires_grad_(False).eval()


@torch.no_grad()
def _final_norm(model: Any) -> tuple[nn.Module | None, LazyLogits]:
    """The module whose output is what the head reads, and the head; no module where there is none with that alone."""
    made: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda of, given, out: made.append((of, given[0], out)))
        for module in model.modules()
        if not any(module.children()) and module is not model.get_output_embeddings()
    ]
    try:
        with headless(model) as taken:
            call(model, {"input_ids": torch.arange(4)[None]})
    finally:
        for hook in hooks:
            hook.remove()
    (head,) = taken
    same = [one for one in made if torch.is_tensor(one[2]) and one[2].data_ptr() == head.hidden.data_ptr()]
    for module, given, out in same[-1:]:
        if torch.equal(module(given), out) and out.shape == head.hidden.shape:
            return module, head
    return None, head
