"""The target ``openvino``: a graph that OpenVINO runs, made of the ONNX one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from distill.core.utils.errors import UserError
from distill.export.base import ExportTarget, Predict
from distill.export.blame import layers_of
from distill.export.fit import Obstacle
from distill.export.onnx.convert import frozen_layers, largest_integer
from distill.export.onnx.isa import host_isa, weight_type
from distill.export.onnx.runtime import UNWRITTEN, latency, logits, session
from distill.export.onnx.write import MODEL, Onnx, OnnxInt8
from distill.export.script import Lines

__all__ = ["FILE", "OpenVino", "Session", "core"]

FILE = "model.xml"

_REPEATS = 50


class OpenVino(ExportTarget):
    """``model.xml`` and ``model.bin``: with the integers of a quantized student, else in float32.

    It is timed beside onnxruntime on the graph that it is made of, one sample at a time on one thread.
    """

    name = "openvino"
    extra = "openvino"
    runtime: ClassVar[str] = "openvino"
    integers = True
    counts_positions = True
    for_isas = True

    def obstacles(self, student: nn.Module) -> Iterator[Obstacle]:
        layers = frozen_layers(student).items()
        dynamic = next((name for name, layer in layers if layer.scheme.activations and not layer.static), None)
        if dynamic is not None:
            why = f"it has no grids that follow each input (dynamic), as {dynamic} has"
            yield Obstacle(why, "quantize", "train with activations: {kind: static}")

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        import openvino

        layers = frozen_layers(student)
        self._refuse_cut_off(largest_integer(layers) if layers else 0)
        source = OnnxInt8(self.isa) if layers else Onnx(self.isa)
        with tempfile.TemporaryDirectory() as parent:
            report = source.write(student, Path(parent), example)
            try:
                model = core().read_model(Path(parent, MODEL))
                openvino.save_model(model, folder / FILE, compress_to_fp16=False)
                openvino_session = Session(folder / FILE)
            except Exception as error:  # a RuntimeError that begins with lines of its own source
                cause = error.__cause__ if isinstance(error, UserError) else None
                raise _cannot(cause or error, Path(parent, MODEL)) from error
            runs = {"openvino": openvino_session, "onnxruntime": session(Path(parent, MODEL))}
            one = {name: tensor[:1] for name, tensor in example.items()}
            report["latency_ms_beside"] = latency(runs, dict.fromkeys(runs, one), _REPEATS)
        return report

    def _refuse_cut_off(self, largest: int) -> None:
        """Refuse integers of whose products this processor keeps no more than 16 bits: nothing could be verified."""
        if host_isa() == "avx2" and weight_type("avx2", largest) != weight_type(self.isa, largest):
            problem = "this processor cuts off products of such integers, so that they cannot be verified here"
            hint = "leave it out, for --isa avx2, or export on a machine of that kind"
            raise UserError(problem, key="--isa", value=self.isa, hint=hint)

    def open(self, folder: Path) -> Predict:
        return partial(logits, Session(folder / FILE))

    def lines(self, student: nn.Module) -> Lines | None:
        return Lines(
            packages=("openvino", "transformers"),
            imports=("import openvino",),
            opens=(f'model = openvino.Core().compile_model(folder / "{FILE}", "CPU")',),
            logits="model({port.any_name: inputs[port.any_name] for port in model.inputs})[0]",
        )


@cache
def core() -> Any:
    """The one ``openvino.Core`` of this process.

    Each gives its thread a stack of its own for the handlers of signals, and as it goes gives back the one that it
    found. Of two that go in the order in which they came, the second gives back that of the first, which is no more:
    the next signal with a handler (Ctrl-C, or the end of a child process) ends the process without a word.
    """
    import openvino

    return openvino.Core()


class Session:
    """A compiled model, called as a session of onnxruntime is. In float32: by itself it may compute in bfloat16."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self._run = core().compile_model(path, "CPU", settings)
        except Exception as error:
            raise _cannot(error) from error
        self._names = {port.any_name for port in self._run.inputs}

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """The outputs; there is one."""
        return [np.asarray(self._run({name: value for name, value in inputs.items() if name in self._names})[0])]


def _cannot(error: BaseException, graph: Path | None = None) -> UserError:
    last = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    where = "" if graph is None else layers_of(graph, last)
    problem = f"OpenVINO cannot run the graph ({last.strip()[-200:]}{where}){UNWRITTEN}"
    return UserError(problem, key="--to", value=OpenVino.name, hint="export it with --to onnx")
