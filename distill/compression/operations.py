"""The operations of a pass: which module's forward calls them, and the how manieth of its pass each is.

Between layers a model adds, multiplies and joins tensors, and no module stands for that. While a model that is under
:func:`watch` computes, torch tells each function that is called (``TorchFunctionMode``), so that the result of one can
be rounded: known by the module and by its place there, and by no name in the code. Modules of torch that hold no other
modules (``nn.ReLU``) are operations of whoever calls them; layers of ours (``opaque``) are one operation each.

The hooks are functions of this module: they survive ``deepcopy``, and are in no state dict. They are called too where
gradient checkpointing computes a module again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distill.core.internals.torch import hooks, remove_hooks
from distill.core.utils.errors import UserError

__all__ = [
    "HOOKS",
    "KINDS",
    "LAYER",
    "Listener",
    "Places",
    "aside",
    "contained_operations",
    "listening",
    "places_of",
    "set_places",
    "unwatch",
    "watch",
]

_NAMES = {
    "add": ("add", "add_", "__add__", "__radd__", "__iadd__"),
    "mul": ("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"),
    "cat": ("cat", "concat", "concatenate"),
    "conv": ("conv1d", "conv2d", "conv3d"),
    "pool": ("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    "relu": ("relu", "relu_"),
    "clamp": ("hardtanh", "hardtanh_", "relu6", "clamp", "clamp_", "clip"),
    "hardswish": ("hardswish", "hardswish_"),
    "hardsigmoid": ("hardsigmoid", "hardsigmoid_"),
    "sigmoid": ("sigmoid", "sigmoid_"),
} | {name: (name,) for name in ("batch_norm", "linear", "silu", "gelu")}

KINDS = {name: kind for kind, names in _NAMES.items() for name in names}
"""Name of a torch function -> the operation that is counted."""

LAYER = "layer"
"""The operation that a layer of ours is."""


@dataclass
class Places:
    """What is known of a module's pass.

    Attributes:
        module: Its name.
        kinds: The operations of its pass, in order.
        points: Place -> what is done with the operation's result.
        key: Where the setting stands that asks for it.
    """

    module: str
    kinds: tuple[str, ...]
    points: dict[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    key: str = ""

    def differs(self, place: int, found: str) -> UserError:
        """What to say of a pass that is another than the one that was traced."""
        expected = self.kinds[place] if place < len(self.kinds) else "nothing more"
        problem = (
            f"its pass is another than that of the first batch: operation {place} is {found}, and was {expected}; what "
            "lies between its layers cannot be rounded"
        )
        return UserError(problem, key=self.key, value=self.module or "the model", hint="set outputs: none")


class _Frame:
    """One call of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.count, self.kinds = module, 0, list[str]()
        self.places: Places | None = module.__dict__.get("_places")

    def told(self, listener: Listener, kind: str, run: Callable[[], Any], given: Any) -> Any:
        """Run what is listened to."""
        counted = not kind.startswith(".")
        result = listener.call(self.module, self.count if counted else None, kind, run, given)
        if counted:
            self.kinds.append(kind)
            self.count += 1
        return result

    def passed(self, kind: str, result: Tensor) -> Tensor:
        place, self.count = self.count, self.count + 1
        if self.places is None:
            return result
        if place >= len(self.places.kinds) or self.places.kinds[place] != kind:
            raise self.places.differs(place, kind)
        point = self.places.points.get(place)
        return result if point is None else point(result)


class Listener(Protocol):
    """Who looks on as a model computes."""

    def call(self, module: nn.Module, place: int | None, kind: str, run: Callable[[], Any], given: Any) -> Any:
        """Run a function, or a layer, and give its result, or another tensor of the same values.

        Args:
            module: Whose forward calls it.
            place: Which operation of the module's pass it is; ``None`` of what is not counted.
            kind: Of :data:`KINDS`, :data:`LAYER`, or another function's name after a dot.
            run: It.
            given: Its arguments; of a layer, the layer and its arguments.
        """

    def left(self, module: nn.Module, kinds: Sequence[str]) -> None:
        """A module has done these operations."""


_frames: list[_Frame | None] = []  # modules that compute now, one within another; None is a layer of ours
_modes: list[ExitStack] = []
_listener: Listener | None = None


class _Operations(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        frame = _frames[-1] if _frames else None
        if frame is None:
            return func(*args, **given)
        kind = KINDS.get(getattr(func, "__name__", ""))
        if kind is not None and not _of_numbers(args):
            kind = None  # a batch norm counts its batches
        if _listener is not None:
            name = kind or f".{getattr(func, '__name__', '')}"
            return frame.told(_listener, name, lambda: func(*args, **given), (args, given))
        result = func(*args, **given)
        return result if kind is None or not isinstance(result, Tensor) else frame.passed(kind, result)


def _of_numbers(args: Any) -> bool:
    """Whether the first tensor of the arguments holds floating point numbers."""
    first = args[0] if args else None
    if isinstance(first, (list, tuple)):
        first = first[0] if first else None
    return isinstance(first, Tensor) and first.is_floating_point()


def _enter(module: nn.Module, args: Any) -> None:
    if not _frames:
        mode = ExitStack()
        mode.enter_context(_Operations())
        _modes.append(mode)
    _frames.append(_Frame(module))


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    if not _frames:
        return  # cut off
    frame = _frames.pop()
    if not _frames:
        _modes.pop().close()
    if frame is None or output is None:
        return
    if _listener is not None:
        _listener.left(module, frame.kinds)
    elif frame.places is not None and frame.count < len(frame.places.kinds):
        raise frame.places.differs(frame.count, "nothing more")


def _begin(module: nn.Module, args: Any) -> None:
    _frames.append(None)


def _end(module: nn.Module, args: Any, output: Any) -> Any:
    if _frames:
        _frames.pop()
    frame = _frames[-1] if _frames else None
    if frame is None or output is None:
        return output
    with aside():
        if _listener is not None:
            return frame.told(_listener, LAYER, lambda: output, (module, args))
        return frame.passed(LAYER, output)


HOOKS: frozenset[Callable[..., Any]] = frozenset({_enter, _leave, _begin, _end})
"""The hooks that :func:`watch` sets."""


def watch(model: nn.Module, opaque: Collection[nn.Module]) -> None:
    """Have the operations of the model's passes known; twice is as once.

    Args:
        model: The model.
        opaque: Modules that are one operation each.
    """
    for module in model.modules():
        if any(hook in HOOKS for hook in hooks(module)):
            continue
        if module in opaque:
            module.register_forward_pre_hook(_begin)
            # Before hooks that are there already: what reads a layer's output reads what comes of it.
            module.register_forward_hook(_end, always_call=True, prepend=True)
        elif module is model or next(module.children(), None) is not None or not _of_torch(module):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def unwatch(model: nn.Module) -> None:
    """Take the hooks away, and what was known of the modules' passes."""
    for module in model.modules():
        module.__dict__.pop("_places", None)
        remove_hooks(module, HOOKS)


def places_of(model: nn.Module) -> dict[str, Places]:
    """What is known of the passes of the model's modules, by their names."""
    found = {name: module.__dict__.get("_places") for name, module in model.named_modules()}
    return {name: places for name, places in found.items() if places is not None}


def set_places(model: nn.Module, places: Iterable[Places]) -> None:
    """Make it known."""
    for one in places:
        model.get_submodule(one.module).__dict__["_places"] = one


@contextmanager
def aside() -> Iterator[None]:
    """A block whose operations are not the model's: of a hook that looks on as it computes."""
    _frames.append(None)
    try:
        yield
    finally:
        if _frames:
            _frames.pop()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have ``listener`` told of every operation inside the block, in which nothing is rounded between layers."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextmanager
def contained_operations() -> Iterator[None]:
    """A block after which no module is taken for one that still computes, whatever cut it off."""
    count = len(_frames)
    try:
        yield
    finally:
        del _frames[count:]
        while _modes and not _frames:
            _modes.pop().close()
