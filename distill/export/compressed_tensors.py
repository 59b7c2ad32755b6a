"""The target ``compressed-tensors``: a folder of integers that vLLM serves and ``AutoModel.from_pretrained`` opens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.compression.quantization.layers import QuantizedLayer, QuantizedLinear
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme
from distill.core.module_selection import sharing
from distill.export.base import ExportTarget, Predict
from distill.export.fit import Obstacle
from distill.export.hf import by_from_pretrained, open_huggingface, structure, to_huggingface
from distill.export.onnx.convert import frozen_layers, without_quantization
from distill.export.onnx.write import UNQUANTIZED
from distill.export.script import Lines

__all__ = ["CompressedTensors"]


class CompressedTensors(ExportTarget):
    """Integers of linear maps and their scales, in the layout of the package ``compressed-tensors``.

    Weights that meet integer inputs are stored as int8 (``int-quantized``: W8A8), others packed into int32
    (``pack-quantized``: W4A16 and the like). Tables, and heads that are tied to them, keep their rounded values: vLLM
    reads these in floating point.
    """

    name = "compressed-tensors"
    extra = "vllm"
    integers = True

    def obstacles(self, student: nn.Module) -> Iterator[Obstacle]:
        yield from structure(student)
        layers, stored = frozen_layers(student), _stored(student)
        if not layers:
            yield UNQUANTIZED
        elif not stored:
            first, layer = min(layers.items(), key=lambda found: isinstance(found[1], nn.Embedding))
            why = f"it holds integers of nn.Linear alone, and these are others ({first}: {layer.plain.__name__})"
            yield Obstacle(why, "quantize")
        found = (_other_scheme(name, layer.scheme) for name, layer in stored.items())
        if first_why := next(filter(None, found), None):
            hint = "take symmetric weights: of 8 bits by channel, or, of any width, alone (activations: none)"
            yield Obstacle(first_why, "quantize", hint)

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        assert isinstance(student, PreTrainedModel)
        plain = without_quantization(student)
        assert isinstance(plain, PreTrainedModel)
        stored = _stored(student)
        settings, compressed = _settings(student, stored), {}
        for group in settings.config_groups.values():
            for name in _members(group, stored):
                compressed[name] = _compressed(stored[name], group)
        left_out = {f"{name}.weight" for name in stored}
        tensors = {f"{name}.{key}": value for name, part in compressed.items() for key, value in part.items()}
        to_huggingface(plain, folder, without=left_out, beside=tensors)
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["quantization_config"] = settings.model_dump(mode="json", exclude_none=True)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return {"integer_layers": len(stored), "format": settings.format}

    def open(self, folder: Path) -> Predict:
        return open_huggingface(folder)

    def lines(self, student: nn.Module) -> Lines | None:
        return by_from_pretrained(student, packages=("compressed-tensors",))


def _stored(student: nn.Module) -> dict[str, QuantizedLayer]:
    """Name -> layer of those whose integers are written."""
    tied = {name for places in sharing(student) for name, own in places if own == "weight" and len(places) > 1}
    return {
        name: layer
        for name, layer in frozen_layers(student).items()
        if isinstance(layer, QuantizedLinear) and name not in tied
    }


def _other_scheme(name: str, scheme: LayerScheme) -> str | None:
    """What the format has no words for."""
    weights, inputs = scheme.weights, scheme.activations
    if weights.format != "int":
        return f"it holds weights of evenly spaced values here, and {name} has {weights.format}"
    if inputs is not None and inputs.bits != 8:
        return f"it holds inputs of 8 bits, and {name} has {inputs.bits}"
    if inputs is not None and weights.bits != 8:
        return f"it holds weights of 8 bits beside integer inputs, and {name} has {weights.bits}"
    if inputs is not None and weights.group_size is not None:
        return f"it holds no groups of weights beside integer inputs, and {name} has them"
    if weights.bits > 8:
        return f"it holds weights of at most 8 bits, and {name} has {weights.bits}"
    if inputs is None and not weights.symmetric:
        return f"it packs zero points so that transformers cannot open them, and {name} has such"
    return None


# ---------------------------------------------------------------------- in the words of compressed-tensors


def _settings(student: nn.Module, stored: Mapping[str, QuantizedLayer]) -> Any:
    """The ``quantization_config``: a group for each scheme. One that all linear maps have but some is told by these."""
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, QuantizationStatus

    by_scheme: dict[str, list[str]] = {}
    for name, layer in stored.items():
        by_scheme.setdefault(repr(layer.scheme), []).append(name)
    alone = len(by_scheme) == 1
    groups = {}
    for number, names in enumerate(by_scheme.values()):
        scheme = stored[names[0]].scheme
        groups[f"group_{number}"] = QuantizationScheme(
            targets=["Linear"] if alone else names,
            weights=_weights(scheme.weights),
            input_activations=None if scheme.activations is None else _inputs(scheme.activations),
            format="pack-quantized" if scheme.activations is None else "int-quantized",
        )
    formats = {group.format for group in groups.values()}
    others = [name for name, module in student.named_modules() if isinstance(module, nn.Linear) and name not in stored]
    return QuantizationConfig(
        config_groups=groups,
        format=formats.pop() if len(formats) == 1 else "mixed-precision",
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=others,
    )


def _members(group: Any, stored: Mapping[str, QuantizedLayer]) -> list[str]:
    return list(stored) if group.targets == ["Linear"] else group.targets


def _weights(scheme: WeightScheme) -> Any:
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(
        num_bits=scheme.bits,
        symmetric=scheme.symmetric,
        strategy=scheme.granularity,
        group_size=scheme.group_size,
    )


def _inputs(scheme: ActivationScheme) -> Any:
    from compressed_tensors.quantization import QuantizationArgs

    static = scheme.kind == "static"
    strategy = "tensor" if static else "token"
    return QuantizationArgs(num_bits=8, symmetric=scheme.symmetric, strategy=strategy, dynamic=not static)


def _compressed(layer: QuantizedLayer, group: Any) -> dict[str, Tensor]:
    """What is stored of a layer, by its own names."""
    from compressed_tensors.compressors import BaseCompressor

    scale, zero_point = layer.weight_scale, layer.weight_zero_point
    shape = (1,) if scale.dim() == 0 else (len(scale), -1)
    given = {"weight": layer.parameter.detach(), "weight_scale": scale.reshape(shape)}
    if zero_point is not None:
        given["weight_zero_point"] = zero_point.reshape(shape).to(torch.int8)
    found: dict[str, Tensor] = BaseCompressor.get_value_from_registry(group.format).compress(given, group)
    if layer.input_scale is not None:
        assert layer.input_zero_point is not None
        found["input_scale"] = layer.input_scale.reshape(1)
        if not group.input_activations.symmetric:  # their integers begin at -128, and ours at 0
            found["input_zero_point"] = (layer.input_zero_point.reshape(1) - 128).to(torch.int8)
    return {name: value.clone().contiguous() for name, value in found.items()}
