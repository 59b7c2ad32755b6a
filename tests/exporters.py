"""Makes once what each export to ONNX makes anew: the exporter's table of operators, the models it is timed beside."""

from __future__ import annotations

import copy
import functools
import hashlib
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
    """Have a model that is only timed beside an export written once."""
    import torch

    from distill.export import student
    from distill.workflows.report import runtimes

    write = student.to_onnx

    @functools.wraps(write)
    def to_onnx(model: Any, path: Path, inputs: Any, *, fixed: bool = False) -> None:
        key = hashlib.sha256(repr((model, getattr(model, "config", None), fixed)).encode())
        for name, tensor in (*model.state_dict().items(), *inputs.items()):
            key.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            key.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        known = folder / key.hexdigest()
        if not known.is_file():
            write(model, path, inputs, fixed=fixed)
            if len(list(path.parent.glob(f"{path.name}*"))) == 1:  # else its weights lie beside it
                shutil.copyfile(path, known)
            return
        shutil.copyfile(known, path)

    student.to_onnx = runtimes.to_onnx = to_onnx
