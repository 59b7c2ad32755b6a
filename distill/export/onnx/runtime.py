"""Running ONNX files in onnxruntime: sessions, logits, what became of the graph, latency."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.core.utils.errors import UserError
from distill.export.blame import layers_of
from distill.export.onnx.padding import count_positions
from distill.export.onnx.saturation import for_this_machine

__all__ = [
    "INTEGER_MATMULS",
    "UNWRITTEN",
    "input_sizes",
    "integer_matmuls",
    "latency",
    "logits",
    "no_past",
    "numpy_feed",
    "optimized",
    "session",
]

INTEGER_MATMULS = frozenset(
    {
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
"""Operators of onnxruntime that multiply integers."""


UNWRITTEN = "; nothing was written"
"""How the message ends where a graph that was just made cannot be run."""


def session(path: Path, *, threads: int = 1, spins: bool = True, optimized: Path | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` of the file on the CPU, which computes what the file says on any processor.

    Args:
        path: The ONNX file.
        threads: Threads of one operator.
        spins: Whether they wait for the next call at work, which slows down whatever else is timed in turn.
        optimized: Where to write the graph as it is run.

    Raises:
        UserError: if it cannot run the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if not spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        # Beside it, whatever they are: one file of them all may be too large for protobuf.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized.name}.data"
        )
    source = for_this_machine(path)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class of its own for each cause, in common they have none
        raise _cannot_run(error, layers_of(path, str(error))) from error


def _cannot_run(error: Exception, where: str = "") -> UserError:
    problem = f"onnxruntime cannot run the graph ({str(error).splitlines()[0][-200:]}{where}){UNWRITTEN}"
    return UserError(problem, key="--to", hint="open the run's student in torch, with distill.load")


def logits(run: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits that a :func:`session` computes for ``inputs``.

    Raises:
        UserError: if it cannot run the graph on them.
    """
    try:
        [output] = run.run(["logits"], {**numpy_feed(inputs), **_nothing_read(run, inputs)})
    except Exception as error:
        raise _cannot_run(error) from error
    return torch.from_numpy(np.asarray(output))


def no_past(run: Any, batch: int) -> dict[str, NDArray[np.float32]]:
    """The keys and values of nothing, for a session of a language model that keeps them; else nothing."""
    inputs = run.get_inputs() if hasattr(run, "get_inputs") else []
    kept = [value for value in inputs if value.name.startswith("past_key_values.")]
    return {value.name: np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float32) for value in kept}


def _nothing_read(run: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What such a session is given besides, of texts from their beginning."""
    given: dict[str, Any] = no_past(run, len(next(iter(inputs.values()))))
    if given and any(value.name == "position_ids" for value in run.get_inputs()):
        given["position_ids"] = count_positions(inputs["attention_mask"]).numpy()
    return given


def input_sizes(run: Any) -> dict[str, list[int | str]]:
    """Of a :func:`session`: input -> the size of each of its dimensions, or the name of one that is free."""
    return {value.name: list(value.shape) for value in run.get_inputs()}


def numpy_feed(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a :func:`session` is run with, in float32 whatever the model computed in."""
    return {n: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for n, tensor in inputs.items()}


def optimized(path: Path) -> Any:
    """The graph that onnxruntime makes of the file to run it."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "optimized.onnx"
        session(path, optimized=made)
        return onnx.load(made, load_external_data=False).graph


def integer_matmuls(path: Path) -> dict[str, int]:
    """How many of :data:`INTEGER_MATMULS`, by name, are in the graph that onnxruntime makes of the file to run it."""
    found = Counter(node.op_type for node in optimized(path).node)
    return {name: found[name] for name in sorted(INTEGER_MATMULS & set(found))}


def latency(sessions: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Tensor]], repeats: int) -> dict[str, float]:
    """Median milliseconds of one call of each session.

    They take turns, so that whatever else the machine does meanwhile falls on all of them alike.

    Args:
        sessions: By name.
        inputs: Of each session, by its name.
        repeats: Timed calls of each; a tenth as many are made before.
    """
    feeds = {name: numpy_feed(inputs[name]) for name in sessions}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    warm_up = max(1, repeats // 10)
    for repeat in range(-warm_up, repeats):
        for name, run in sessions.items():
            started = time.perf_counter()
            run.run(None, feeds[name])
            if repeat >= 0:
                taken[name].append(1000 * (time.perf_counter() - started))
    return {name: median(times) for name, times in taken.items()}
