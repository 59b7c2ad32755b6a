"""The target ``triton``: a model repository for Triton Inference Server, made of the ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from distill.export.base import Predict
from distill.export.folder import REPORT
from distill.export.onnx.convert import frozen_layers
from distill.export.onnx.runtime import session
from distill.export.onnx.write import MODEL, Onnx, OnnxInt8
from distill.export.script import Lines

__all__ = ["CONFIG", "REPOSITORY", "Triton", "config_text"]

REPOSITORY, _NAME, _VERSION = "repository", "student", "1"
CONFIG = f"{REPOSITORY}/{_NAME}/config.pbtxt"

_BATCH, _DELAY = 32, 1000  # most samples at once; microseconds that the first may wait for others


class Triton(Onnx):
    """``repository/student/`` with ``config.pbtxt`` and version 1: with integers, if the student has them.

    The graph is run in onnxruntime, as the server does; the server itself is not.
    """

    name = "triton"
    integers = True
    for_isas = True
    onnx: ClassVar[str | None] = f"{REPOSITORY}/{_NAME}/{_VERSION}/{MODEL}"
    more = "A server for it: `tritonserver --model-repository repository`."

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        place = folder / REPOSITORY / _NAME / _VERSION
        place.mkdir(parents=True)
        source = OnnxInt8(self.isa) if frozen_layers(student) else Onnx(self.isa)
        report = source.write(student, place, example)
        run = session(place / MODEL)
        (folder / CONFIG).write_text(config_text(run.get_inputs(), run.get_outputs()), encoding="utf-8")
        return report

    def open(self, folder: Path) -> Predict:
        return Onnx(self.isa).open(folder / REPOSITORY / _NAME / _VERSION)

    def lines(self, student: nn.Module) -> Lines | None:
        """A client: it asks the server, by the protocol of KServe (version 2)."""
        form = 'datatype=str(x.dtype).upper().replace("FLOAT", "FP")'
        given = f"dict(name=name, {form}, shape=x.shape, data=x.ravel().tolist())"
        return Lines(
            packages=("numpy", "transformers"),
            standard=("import json", "import urllib.request"),
            imports=("import numpy as np",),
            opens=(
                f'url = "http://localhost:8000/v2/models/{_NAME}/infer"',
                f'names = json.loads((folder / "{REPORT}").read_text())["inputs"]',
                "def infer(inputs):",
                f"    given = [{given} for name, x in inputs.items() if name in names]",
                '    with urllib.request.urlopen(url, json.dumps({"inputs": given}).encode()) as answer:',
                '        [found] = json.load(answer)["outputs"]',
                '    return np.array(found["data"], np.float32).reshape(found["shape"])',
            ),
            logits="infer(inputs)",
        )


def config_text(inputs: Sequence[Any], outputs: Sequence[Any]) -> str:
    """``config.pbtxt`` for a file of these inputs and outputs, each of a name, a type and sizes, the batch's first.

    Requests are put together to batches of up to 32 if their sizes are equal.
    """
    lines = [f'name: "{_NAME}"', 'backend: "onnxruntime"', f"max_batch_size: {_BATCH}"]
    for kind, values in (("input", inputs), ("output", outputs)):
        each = (f'name: "{one.name}", data_type: {_type(one.type)}, {_dims(one.shape[1:])}' for one in values)
        lines += [f"{kind} [", ",\n".join(f"  {{ {text} }}" for text in each), "]"]
    lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY} }}")
    return "\n".join(lines) + "\n"


def _type(of: str) -> str:
    """onnxruntime's name of a type in the server's words: ``tensor(float)`` is ``TYPE_FP32``."""
    name = of.removeprefix("tensor(").removesuffix(")")
    return "TYPE_" + {"float": "FP32", "float16": "FP16", "double": "FP64"}.get(name, name.upper())


def _dims(sizes: Sequence[int | str]) -> str:
    """The sizes of one sample; -1 where they are free. The server has no samples of no dimension, but makes such."""
    if not sizes:
        return "dims: [ 1 ], reshape: { shape: [ ] }"
    return f"dims: [ {', '.join(str(size) if isinstance(size, int) else '-1' for size in sizes)} ]"
