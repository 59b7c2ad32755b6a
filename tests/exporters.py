"""Makes once what each export to ONNX makes anew: the exporter's table of operators, the models it is timed beside."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any


def one_table() -> None:
    """Have torch make its table of ONNX functions once; each export gets a copy."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    known: dict[Any, Any] = {}
    make = ONNXRegistry.from_torchlib

    def from_torchlib(*args: Any, **options: Any) -> Any:
        key = repr((args, options))
        if key not in known:
            known[key] = make(*args, **options)
        table = copy.copy(known[key])
        table.functions = {name: list(metas) for name, metas in table.functions.items()}
        return table

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)


def one_reference(folder: Path) -> None:
    """Have a model that is only timed beside an export written once for all of its shape: weights take no time.

    Args:
        folder: Where they are kept; processes may share it.
    """
    from distill.export import student
    from distill.workflows.report import runtimes

    write = student.to_onnx
    folder.mkdir(exist_ok=True)

    @functools.wraps(write)
    def to_onnx(model: Any, path: Path, inputs: Any, *, fixed: bool = False) -> None:
        tensors = [
            (name, tensor.dtype, tuple(tensor.shape)) for name, tensor in (*model.state_dict().items(), *inputs.items())
        ]
        key = repr((model, getattr(model, "config", None), fixed, tensors))
        known = folder / hashlib.sha256(key.encode()).hexdigest()
        if known.is_file():
            shutil.copyfile(known, path)
            return
        write(model, path, inputs, fixed=fixed)
        if len(list(path.parent.glob(f"{path.name}*"))) == 1:  # else its weights lie beside it
            mine = known.with_name(f"{known.name}.{os.getpid()}")
            shutil.copyfile(path, mine)
            mine.replace(known)

    student.to_onnx = runtimes.to_onnx = to_onnx
