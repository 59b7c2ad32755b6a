"""Whether a model's own code reads or writes a compressed weight past the module that holds it.

``dict(model.named_parameters())["inner.weight"]`` or an alias of ``inner.weight.data`` gives the weight as it is before
rounding, in training alone: the saved student has the rounded values in their place. And what a forward pass writes
into a weight undoes masks and rounding. Neither can be seen in the code; both show in a pass.

**Reads.** The layers answer with a copy of their weights, and the weights themselves become NaN. Whatever reaches an
output past a layer is NaN then, be its part ever so small. Times a plain 0, with which code gives every parameter a
gradient, it adds nothing, which other numbers show; times a parameter that is 0 now, it will add something.

**Writes.** Every operator of a pass is asked whether it writes into a weight that is rounded; a weight that is masked
gets zeros, which must be zeros afterwards, so that whoever only scales it may go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.own_pass import guards
from distill.compression.preserved_state import preserved_state
from distill.core.generators import reseed
from distill.core.internals.torch import OperatorMode, own_parameters, tensors_in, written_arguments
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount

__all__ = [
    "Held",
    "find_read",
    "find_written",
    "refuse_bypass",
    "smallest_pass",
    "watched_writes",
    "written_by_pass",
]

Run = Callable[[], Sequence[Tensor]]
"""One forward pass, the same every time: what it gave."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What of a student is no longer a parameter that its code may read and write as it likes.

    Attributes:
        rounded: Layers, by name, whose ``weight`` is rounded as they answer.
        replaced: Weights, by the name of their layer, in whose place others are trained.
        masked: Names of parameters in which zeros must stay zeros.
        by: Name of each of these -> the callback that asks for it.
        changed: Callbacks that changed the structure.
    """

    rounded: Mapping[str, nn.Module] = field(default_factory=dict)
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    masked: Sequence[str] = ()
    by: Mapping[str, str] = field(default_factory=dict)
    changed: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.rounded or self.replaced or self.masked or self.changed)


def refuse_bypass(student: nn.Module, batch: Batch, read: Callable[[Batch], Signals], held: Held) -> None:
    """Refuse a student that reads a weight past its layer, or writes one, as it trains or as it is judged.

    Args:
        student: As it is trained; not changed.
        batch: Of which two samples are read, or all where it cannot be cut.
        read: A pass of the student.
        held: What its code may not touch.

    Raises:
        UserError: naming the first such layer.
    """
    hooked = [module for module in student.modules() if not guards(module)]
    if not held:
        return
    with preserved_state(student):
        for layer in held.rounded.values():
            layer.__dict__["mode"] = "float"  # steps of rounding would be no proof
        for trains in (True, False):
            student.train(trains)
            for module in (*held.rounded.values(), *hooked):
                module.training = False  # whatever observes, observes in training
            run = smallest_pass(student, batch, read, held.changed)
            if run is None:
                continue
            if written := find_written(student, held.rounded, held.masked, run):
                undone = "rounding" if written[0] in held.rounded else "masks"
                raise written_by_pass(written, undone, f"callbacks.{held.by[written[0]]}")
            if (name := find_read(student, held.rounded, held.replaced, run)) is not None:
                kept = "rounded" if name in held.rounded else "a product of factors"
                raise UserError(
                    "the student's code reads its weight past the layer (named_parameters(), get_parameter(), an alias "
                    f"of it), and would be trained with another one than is saved, which is {kept}",
                    key=f"callbacks.{held.by[name]}",
                    value=name,
                    hint=f"read it as the layer's attribute, layer.weight, or leave it out: exclude: ['{name}']",
                )


def written_by_pass(names: Sequence[str], undone: str, key: str) -> UserError:
    """What is said of weights that a forward pass writes."""
    others = len(set(names)) - 1
    more = f", and {amount(others, 'other')}" if others else ""
    hint = f"write it outside of the pass, or leave it out: exclude: ['{names[0].removesuffix('.weight')}']"
    return UserError(
        f"the forward pass writes this weight{more}, which would undo {undone}", key=key, value=names[0], hint=hint
    )


def smallest_pass(
    student: nn.Module, batch: Batch, read: Callable[[Batch], Signals], changed: Sequence[str] = ()
) -> Run | None:
    """A pass of two samples, or of the whole batch; ``None`` where the model runs neither.

    Raises:
        UserError: if it looks for what a change of its structure took away.
    """
    for part in (batch.first(2), batch):
        try:
            with preserved_state(student, parameters=False), torch.no_grad():
                read(part)
        except Exception as error:
            failure = error
        else:
            return partial(_tensors_of, read, part)
    if changed and isinstance(failure, (KeyError, AttributeError)):
        problem = f"its code does not find what it looks for in the changed student ({type(failure).__name__}"
        hint = "have it call the layers, or read layer.weight, and no parameter by its name"
        raise UserError(f"{problem}: {failure})", key=f"callbacks.{changed[0]}", hint=hint) from failure
    return None


def _tensors_of(read: Callable[[Batch], Signals], batch: Batch) -> list[Tensor]:
    return tensors_in(dict(vars(read(batch))))


def find_read(
    model: nn.Module, rounded: Mapping[str, nn.Module], replaced: Mapping[str, Tensor], run: Run
) -> str | None:
    """The first layer whose weight the model reads past it.

    Args:
        model: Run in the modes that its modules are in, without gradients; not changed.
        rounded: Layers by name, each with a parameter ``weight``.
        replaced: Weights that nothing should read.
        run: A pass.

    Returns:
        Its name.
    """
    weights = {name: _weight(layer) for name, layer in rounded.items()} | dict(replaced)
    if not weights:
        return None
    with preserved_state(model, parameters=False), torch.no_grad():
        reference = _pass(run)
        _answer(rounded.values())
        if not _differs(model, run, reference, weights.values()):
            return None
        # One that differs with all and with none alone has read what no weight of these is: memory never written.
        return next((name for name, weight in weights.items() if _differs(model, run, reference, [weight])), None)


def find_written(model: nn.Module, rounded: Mapping[str, nn.Module], masked: Sequence[str], run: Run) -> list[str]:
    """The weights that a pass writes to.

    Args:
        model: See :func:`find_read`.
        rounded: Layers whose ``weight`` nobody may write.
        masked: Names of parameters in which zeros must stay zeros.
        run: A pass.

    Returns:
        Names of layers and of parameters.
    """
    parameters = {name: model.get_parameter(name) for name in masked}
    with (
        preserved_state(model, parameters=False),
        torch.no_grad(),
        _kept([*map(_weight, rounded.values()), *parameters.values()]),
    ):
        for parameter in parameters.values():
            parameter[..., ::2] = 0
        _answer(rounded.values())
        with watched_writes(rounded) as found, suppress(Exception):
            _pass(run)
        own = dict(model.named_parameters(remove_duplicate=False))
        moved = [n for n, p in parameters.items() if own.get(n) is not p or bool(p[..., ::2].any())]
    return [*dict.fromkeys([*found, *moved])]


@contextmanager
def watched_writes(layers: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Find whose weights are written inside the block: in place, or by another tensor that is put in their place.

    Yields:
        The names of such layers, complete after the block.
    """
    held = [(name, layer, tensor, tensor.data_ptr()) for name, layer in layers.items() for tensor in _tensors(layer)]
    writes = _Writes({tensor.untyped_storage().data_ptr(): name for name, _, tensor, _ in held})
    with writes if held else nullcontext():
        yield writes.found
    for name, layer, tensor, place in held:
        if tensor.data_ptr() != place or not any(tensor is now for now in _tensors(layer)):
            writes.found.append(name)


class _Writes(OperatorMode):  # type: ignore[no-untyped-call]
    """Notes which storages operators write to."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.found = names, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        for place, argument in written_arguments(func):
            tensors = tensors_in(args[place] if place < len(args) else given.get(argument))
            names = (self.names.get(tensor.untyped_storage().data_ptr()) for tensor in tensors)
            self.found.extend(name for name in names if name is not None)
        return func(*args, **given)


def _differs(model: nn.Module, run: Run, reference: Sequence[Tensor], weights: Collection[Tensor]) -> bool:
    """Whether the outputs are others while these weights are NaN, and do not come from a product with 0 alone."""
    try:
        with _kept(weights) as held:
            for weight in held:
                weight.fill_(torch.nan)
            found = _pass(run)
    except Exception:  # of what stumbles over NaN, or wants a parameter where it is given a rounded one
        return True
    if any(bool(a.isnan().any() & ~b.isnan().any()) for a, b in zip(found, reference, strict=True)):
        return _adds(model, run, weights)
    # A comparison with NaN is an ordinary False; but kernels may differ from one pass to the next.
    return not _equal(found, reference) and _equal(_pass(run), reference)


def _adds(model: nn.Module, run: Run, weights: Collection[Tensor]) -> bool:
    """Whether the outputs are others while these weights are other numbers, and no other parameter or buffer is 0."""
    here = {id(weight) for weight in weights}
    gates = [
        gate for gate in (*model.parameters(), *model.buffers()) if gate.is_floating_point() and id(gate) not in here
    ]
    with _kept(gates) as opened, _kept(weights) as held:
        for gate in opened:
            gate.masked_fill_(gate == 0, 1)
        reference = _pass(run)
        for weight in held:
            weight.mul_(-2).add_(1)
        return not _equal(_pass(run), reference)


def _equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True))


def _pass(run: Run) -> Sequence[Tensor]:
    reseed(0)
    return run()


@contextmanager
def _kept(weights: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Give these weights, each once, their values back."""
    before = [(weight, weight.data, weight.detach().clone()) for weight in {id(w): w for w in weights}.values()]
    try:
        yield [weight for weight, _, _ in before]
    finally:
        for weight, data, value in before:
            weight.data = data
            weight.copy_(value)


def _answer(layers: Iterable[nn.Module]) -> None:
    """Have layers, and all who ask them, read a copy of the weight, until the block ends that restores their class."""
    copies: dict[int, Tensor] = {}
    for layer in layers:
        weight, kind = _weight(layer), type(layer)
        layer.__dict__["_answer"] = copies.setdefault(id(weight), weight.detach().clone())
        # Before what a module looks up among its parameters.
        answer = property(lambda self: self.__dict__["_answer"])
        layer.__class__ = type(kind.__name__, (kind,), {"weight": answer, "parameter": answer})


def _weight(layer: nn.Module) -> nn.Parameter:
    weight = own_parameters(layer)["weight"]
    assert weight is not None
    return weight


def _tensors(layer: nn.Module) -> list[Tensor]:
    """The weight, and what is answered in its place."""
    answer = layer.__dict__.get("_answer")
    return [_weight(layer), *([] if answer is None else [answer])]
