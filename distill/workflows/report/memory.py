"""The most memory that a call takes: of tensors in torch, of a process in other runtimes."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.internals.torch import OperatorMode, tree_leaves

__all__ = ["resident_bytes", "tensor_bytes"]


class _Tensors(OperatorMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operators make inside the block, as long as they live.

    Attributes:
        most: That there were at once.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known, self._there = known, dict[int, int]()
        self._bytes = self.most = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._enter(tensor, storage.data_ptr(), storage.nbytes())
        return found

    def _enter(self, tensor: Tensor, place: int, size: int) -> None:
        if place in self._known:
            return
        if place not in self._there:
            self._there[place] = 0
            self._bytes += size
            self.most = max(self.most, self._bytes)
        self._there[place] += 1
        weakref.finalize(tensor, self._leave, place, size)

    def _leave(self, place: int, size: int) -> None:
        self._there[place] -= 1
        if not self._there[place]:
            del self._there[place]
            self._bytes -= size


def tensor_bytes(model: nn.Module, call: Callable[[], object]) -> int:
    """Bytes of a model's weights and of the tensors that ``call`` holds at once besides.

    What an operator needs inside of itself is not seen.
    """
    own = {tensor.untyped_storage().data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    with torch.no_grad(), _Tensors(set(own)) as tensors:
        call()
    most: int = tensors.most
    return most + sum(tensor.untyped_storage().nbytes() for tensor in own.values())


_CHILD = """\
import resource, sys
import numpy as np
runtime, path, *inputs = sys.argv[1:]
feed = {}
for given in inputs:
    name, dtype, shape = given.split(":")
    feed[name] = np.ones([int(size) for size in shape.split("x")], dtype)
if runtime == "onnxruntime":
    import onnxruntime
else:
    import openvino
    core = openvino.Core()
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = most()
if runtime == "onnxruntime":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    run = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in run.get_inputs()}
    run.run(None, {name: value for name, value in feed.items() if name in names})
else:
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    run = core.compile_model(path, "CPU", settings)
    names = {port.any_name for port in run.inputs}
    run({name: value for name, value in feed.items() if name in names})
print((most() - before) * (1 if sys.platform == "darwin" else 1024))
"""
"""Opens a file in a process of its own, calls it once, and prints by how many bytes it grew."""


def resident_bytes(runtime: str, file: Path, sample: Mapping[str, Tensor]) -> int | None:
    """What a process grows by as it opens a file, on one thread, and runs one sample; ``None`` if it cannot.

    Args:
        runtime: ``onnxruntime`` or ``openvino``.
        file: That it opens.
        sample: One sample, of which sizes and types count.
    """
    feed = {name: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for name, tensor in sample.items()}
    inputs = [f"{name}:{value.dtype}:{'x'.join(map(str, value.shape))}" for name, value in feed.items()]
    arguments = [sys.executable, "-c", _CHILD, runtime, str(file), *inputs]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
        return int(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
