"""One pass of a model, in which the features of its activations are followed operator by operator.

Every activation has labels (:mod:`~distill.compression.structure.ties`) that say which feature each value belongs to.
What only moves values moves the labels; what computes value by value ties the labels of its operands; a convolution or
a linear map ties what it reads to the inputs of its weight, and answers with its outputs. What mixes features in any
other way (a layer norm, attention), or is not known, fixes what it reads, and is named.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.structure.ties import FIXED, FREE, Ties, expanded, varies
from distill.core.internals.torch import OperatorMode, arguments, tensors_in, unsaved_buffers

__all__ = ["Trace"]

_log = logging.getLogger(__name__)

_VALUE_BY_VALUE = {"hardswish", "_prelu_kernel", "prelu", "hardsigmoid", "threshold", "dropout", "native_dropout"}
"""Beside those that torch marks as such."""

_SAME = {"detach", "alias", "clone", "_to_copy", "contiguous", "lift_fresh"}

_MOVES = {
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "flip", "roll"),
    *("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "repeat", "index_select", "unflatten"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "narrow"),
}

_REDUCE = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "linalg_vector_norm"}

_SHAPE_ONLY = re.compile(r"(.*_like|new_.*|sym_.*|size|stride|_assert.*)")

_SPATIAL = re.compile(
    r"_?(adaptive_)?(avg|max|lp)_pool([123])d.*|_?upsample_\w+?([123])d.*|(reflection|replication)_pad([123])d"
)


class Trace(OperatorMode):  # type: ignore[no-untyped-call]
    """Follows the features of the model that computes under it, without gradients and in eval mode.

    Args:
        model: Whose tensors are told by their names.

    Attributes:
        ties: What was found.
        fixed: Operator and module that fixed features which might have gone -> how often.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ties = Ties()
        self.fixed: Counter[str] = Counter()
        self._alive: list[Tensor] = []  # so that no other tensor gets the id of one
        self._labels: dict[int, Tensor] = {}
        self._weights: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._within: list[str] = []
        self._name(model)
        for name, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name), prepend=True)
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, name: str, *_: Any) -> None:
        self._within.append(name)

    def _leave(self, *_: Any) -> None:
        self._within.pop()

    def _name(self, model: nn.Module) -> None:
        lost = {
            f"{name}.{own}".lstrip(".") for name, module in model.named_modules() for own in unsaved_buffers(module)
        }
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in lost or not tensor.dim():
                continue  # made anew by the model's own code, as it is now
            self._alive.append(tensor)
            if tensor.dim() == 1:
                self._labels[id(tensor)] = self.ties.values(name, tensor.shape)
            else:
                self._weights[id(tensor)] = name, tuple(range(tensor.dim()))

    # ------------------------------------------------------------------ labels of tensors

    def labels(self, tensor: Any) -> Tensor | None:
        """The features of a tensor's values; of a weight that is no weight of a map here, value by value."""
        if (weight := self._weights.get(id(tensor))) is not None:
            name, axes = weight
            shape = torch.Size(tensor.shape[axes.index(axis)] for axis in range(len(axes)))
            return self.ties.values(name, shape).permute(axes)
        return self._labels.get(id(tensor))

    def _give(self, tensor: Tensor, labels: Tensor) -> None:
        if labels.shape != tensor.shape:  # here, and not where the next one reads it
            raise ValueError(f"labels of {tuple(labels.shape)} for values of {tuple(tensor.shape)}")
        self._alive.append(tensor)
        self._labels[id(tensor)] = labels

    def fix(self, tensors: Iterable[Tensor], why: str = "") -> None:
        """Have the features of these stay."""
        for tensor in tensors:
            if (weight := self._weights.get(id(tensor))) is not None:
                name, axes = weight
                for place, axis in enumerate(axes):
                    self.ties.fix(self.ties.axis(name, axis, tensor.shape[place]))
            elif (labels := self._labels.get(id(tensor))) is not None:
                if why and bool((self.ties.roots(labels.flatten()) > FIXED).any()):
                    self.fixed[f"{why} in {self._within[-1]}" if self._within and self._within[-1] else why] += 1
                self.ties.fix(labels)

    # ------------------------------------------------------------------ operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket.__name__).removesuffix("_")
        known = [one for one in tensors_in((args, kwargs)) if id(one) in self._labels or id(one) in self._weights]
        if known and not _SHAPE_ONLY.fullmatch(name):
            self._follow(func, name, out, args, kwargs or {})
        return out

    def _follow(self, func: Any, name: str, out: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """One operator by its rule; where that cannot be followed it is as one that is not known."""
        try:
            if name in _REDUCE:
                self._reduce(name, out, arguments(func, args, kwargs))
            elif (rule := self._rule(func, name)) is not None:
                rule(name, out, *args)
            else:
                self._unknown(name, out, args, kwargs)
        except Exception:
            _log.debug("%s is not followed", func, exc_info=True)
            self._unknown(name, out, args, kwargs)

    def _rule(self, func: Any, name: str) -> Callable[..., None] | None:
        if (rule := getattr(self, f"_{name.removeprefix('_')}_rule", None)) is not None:
            found: Callable[..., None] = rule
            return found
        if name in _SAME:
            return self._same
        if name in _MOVES:
            return lambda name, out, *args: self._move(func, name, out, *args)
        if "batch_norm" in name:
            return self._batch_norm
        if _SPATIAL.fullmatch(name):
            return self._spatial
        if torch.Tag.pointwise in func.tags or name in _VALUE_BY_VALUE:
            return self._each
        return None

    def _unknown(self, name: str, out: Any, *args: Any) -> None:
        self.fix(tensors_in(args), name.lstrip("_"))

    def _same(self, name: str, out: Tensor, source: Tensor, *_: Any) -> None:
        if (weight := self._weights.get(id(source))) is not None:
            self._alive.append(out)
            self._weights[id(out)] = weight
        elif (labels := self.labels(source)) is not None:
            self._give(out, labels)

    def _move(self, func: Any, name: str, out: Any, source: Tensor, *args: Any) -> None:
        if (weight := self._weights.get(id(source))) is not None and name in ("t", "transpose", "permute"):
            self._alive.append(out)
            self._weights[id(out)] = weight[0], _moved(name, weight[1], args)
            return
        labels = self.labels(source)
        assert labels is not None
        if name in ("view", "_unsafe_view", "reshape"):
            self._give(out, labels.reshape(out.shape))
            return
        args = tuple(arg.cpu() if isinstance(arg, Tensor) else arg for arg in args)
        moved = func(labels, *args)
        for tensor, its in zip(tensors_in([out]), tensors_in([moved]), strict=True):
            self._give(tensor, its)

    def _cat_rule(self, name: str, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
        self._give(out, torch.cat([self._or_fixed(one) for one in tensors], dim))

    def _stack_rule(self, name: str, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
        self._give(out, torch.stack([self._or_fixed(one) for one in tensors], dim))

    def _glu_rule(self, name: str, out: Tensor, source: Tensor, dim: int = -1) -> None:
        labels, gate = self._or_fixed(source).chunk(2, dim)
        self.ties.unite(labels, gate)
        self._give(out, labels)

    def _or_fixed(self, tensor: Tensor) -> Tensor:
        labels = self.labels(tensor)
        return torch.full(tensor.shape, FIXED) if labels is None else labels

    def _constant_pad_nd_rule(self, name: str, out: Tensor, source: Tensor, pad: Sequence[int], *_: Any) -> None:
        labels = self._or_fixed(source)
        sides = [source.dim() - 1 - place // 2 for place, width in enumerate(pad) if width]
        among = any(varies(labels, dim) for dim in sides)
        self._give(out, torch.constant_pad_nd(labels, list(pad), FIXED if among else FREE))

    def _each(self, name: str, out: Any, *args: Any) -> None:
        """Value by value: what is at one place is tied. What is one for several features belongs to all, and stays."""
        out = tensors_in([out])[0]
        operands = [one for one in tensors_in(args) if one.dim()]
        own = [(one, labels) for one in operands if (labels := self.labels(one)) is not None]
        differ = {dim - labels.dim() for _, labels in own for dim in range(labels.dim()) if varies(labels, dim)}
        result: Tensor | None = None
        for one, labels in own:
            if any(_size(one, dim) == 1 < out.shape[dim] for dim in differ):
                self.ties.fix(labels)
                continue
            labels = labels.expand(out.shape)
            if result is None:
                result = labels
                continue
            self.ties.unite(result, labels)
            result = torch.where(result == FREE, labels, result) if bool((result == FREE).any()) else result
        if result is None:
            return
        constants = [one for one in operands if self.labels(one) is None]
        if any(_size(one, dim) > 1 for one in constants for dim in differ):
            self.ties.fix(result)
        self._give(out, result)

    def _reduce(self, name: str, out: Any, given: Mapping[str, Any]) -> None:
        source, dims = given["self"], given.get("dim")
        if "other" in given:
            return self._each(name, out, source, given["other"])  # the larger of two
        labels, out = self.labels(source), tensors_in([out])[0]
        assert labels is not None
        over = [dims] if isinstance(dims, int) else dims or range(source.dim())
        over = sorted({dim % source.dim() for dim in over}, reverse=True)
        if any(varies(labels, dim) for dim in over):
            return self._unknown(name, out, source)
        for dim in over:
            labels = labels.narrow(dim, 0, 1)
            labels = labels if out.dim() == source.dim() else labels.squeeze(dim)
        return self._give(out, labels)

    def _spatial(self, name: str, out: Any, source: Tensor, *_: Any) -> None:
        """Pools, enlarges or pads over places: of each channel by itself."""
        labels, out = self.labels(source), tensors_in([out])[0]
        assert labels is not None
        match = _SPATIAL.fullmatch(name)
        assert match is not None
        over = range(source.dim() - int(next(n for n in match.groups() if n and n in "123")), source.dim())
        if any(varies(labels, dim) for dim in over):
            return self._unknown(name, out, source)
        for dim in over:
            labels = labels.narrow(dim, 0, 1)
        return self._give(out, labels.expand(out.shape))

    # ------------------------------------------------------------------ norms and maps

    def _batch_norm(self, name: str, out: Any, source: Tensor, *args: Any) -> None:
        labels, out = self._or_fixed(source), tensors_in([out])[0]
        for beside in args[:4]:
            if isinstance(beside, Tensor):
                self.ties.unite(labels, expanded(self._or_fixed(beside), source.shape))
        self._give(out, labels)

    def _native_group_norm_rule(self, name: str, out: Any, source: Tensor, *args: Any) -> None:
        """Channels of a group go together, whose mean and variance are over all of them."""
        labels, out = self._or_fixed(source), tensors_in([out])[0]
        for beside in args[:2]:
            if isinstance(beside, Tensor):
                self.ties.unite(labels, expanded(self._or_fixed(beside), source.shape))
        self._tie_groups(labels, args[5])
        self._give(out, labels)

    def _tie_groups(self, labels: Tensor, groups: int) -> None:
        moved = labels.movedim(1, -1)
        by_group = moved.reshape(*moved.shape[:-1], groups, -1)
        self.ties.unite(by_group, by_group[..., :1])

    def _convolution_rule(self, name: str, out: Tensor, x: Tensor, weight: Tensor, bias: Any, *args: Any) -> None:
        transposed, groups = args[3], args[5]
        known = self._weights.get(id(weight))
        if known is None:
            return self._unknown(name, out, x, weight, *([bias] if isinstance(bias, Tensor) else []))
        own, axes = known
        labels, outputs = self._or_fixed(x), out.shape[1]
        first = self.ties.axis(own, axes[0], weight.shape[0])
        if groups > 1:
            # A group goes as a whole: what it reads, its weights, what it answers.
            self._tie_groups(labels, groups)
            self.ties.unite(first.view(groups, -1), first.view(groups, -1)[:, :1])
            heads = first.view(groups, -1)[:, 0]
            self.ties.unite(labels, expanded(heads.repeat_interleave(x.shape[1] // groups), x.shape))
            features = heads.repeat_interleave(outputs // groups) if transposed else first
        else:
            second = self.ties.axis(own, axes[1], weight.shape[1])
            into, features = (first, second) if transposed else (second, first)
            self.ties.unite(labels, expanded(into, x.shape))
        if isinstance(bias, Tensor):
            self.ties.unite(features, self._or_fixed(bias))
        return self._give(out, expanded(features, out.shape))

    def _addmm_rule(self, name: str, out: Tensor, bias: Tensor, x: Tensor, weight: Tensor, *_: Any) -> None:
        if self._map(name, out, x, weight):
            self.ties.unite(self._labels[id(out)], self._or_fixed(bias))
        else:
            self.fix([bias])

    def _mm_rule(self, name: str, out: Tensor, x: Tensor, weight: Tensor) -> None:
        self._map(name, out, x, weight)

    def _map(self, name: str, out: Tensor, x: Tensor, weight: Tensor) -> bool:
        known = self._weights.get(id(weight))
        if known is None or len(known[1]) != 2 or id(x) in self._weights:
            self._unknown(name, out, x, weight)
            return False
        own, (into, outputs) = known
        self.ties.unite(self._or_fixed(x), self.ties.axis(own, into, weight.shape[0]))
        self._give(out, self.ties.axis(own, outputs, weight.shape[1]).expand(out.shape))
        return True


def _size(tensor: Tensor, dim: int) -> int:
    """Along an axis counted from the end; 1 where there is no such axis."""
    return tensor.shape[dim] if tensor.dim() >= -dim else 1


def _moved(name: str, axes: tuple[int, ...], args: Sequence[Any]) -> tuple[int, ...]:
    """The axes of a weight after it was transposed."""
    if name == "permute":
        return tuple(axes[dim] for dim in args[0])
    order = [*axes]
    one, other = (0, len(axes) - 1) if name == "t" else (args[0], args[1])
    order[one], order[other] = order[other], order[one]
    return tuple(order)
