"""The target ``gguf``: one file for llama.cpp and what is built on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from distill.compression.quantization.layers import QuantizedEmbedding, QuantizedLayer, QuantizedLinear
from distill.core.utils.errors import UserError
from distill.core.utils.quiet import quiet_transformers
from distill.export.base import ExportTarget, Predict
from distill.export.fit import Obstacle
from distill.export.gguf.blocks import form_of, packed, scales_by_block
from distill.export.gguf.tokenizer import add_tokenizer
from distill.export.hf import by_from_pretrained, structure
from distill.export.onnx.convert import frozen_layers, without_quantization
from distill.export.script import Lines
from distill.export.verify import torch_logits

__all__ = ["FILE", "Gguf"]

FILE = "model.gguf"

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""``model_type`` of transformers, and the name in the file."""

_FLOAT16 = 65504.0

_QWEN3_HEAD = 128


class Gguf(ExportTarget):
    """A file for llama.cpp, with the integers that training ended with.

    Symmetric weights whose scales are shared by 32 successive inputs, or by a whole output, become blocks of ``Q4_0``,
    ``Q5_0`` or ``Q8_0`` with these integers; the scale alone is rounded, to float16. Other matrices are float16,
    vectors float32. Inputs are not rounded: llama.cpp rounds them itself, to 8 bits in blocks.
    """

    name = "gguf"
    extra = "gguf"
    integers = True
    coarse = True
    more = 'Or from a shell: `llama-cli -m model.gguf -p "a text"`.'

    def obstacles(self, student: nn.Module) -> Iterator[Obstacle]:
        yield from structure(student)
        if isinstance(student, PreTrainedModel) and (why := _unknown(student)) is not None:
            yield Obstacle(f"it {why}")

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        import gguf

        assert isinstance(student, PreTrainedModel)
        config = student.config
        if self.tokenizer is None:
            problem = "holds a tokenizer beside the weights, and the data has none"
            raise UserError(problem, key="--to", value=self.name, hint="export it with --to hf")
        writer = gguf.GGUFWriter(folder / FILE, config.model_type)
        add_tokenizer(writer, self.tokenizer, config.vocab_size)
        _describe(writer, config)
        forms: dict[str, int] = {}
        for name, form, values in _tensors(student):
            forms[form] = forms.get(form, 0) + 1
            writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[form])
        most = max((form for form in forms if form != "F32"), key=lambda form: forms[form], default="F32")
        writer.add_file_type(_FILE_TYPES[most])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {"tensors": forms}

    def open(self, folder: Path) -> Predict:
        logging.getLogger("gguf").setLevel(logging.WARNING)
        with quiet_transformers():
            opened: nn.Module = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
        return torch_logits(opened.eval())

    def lines(self, student: nn.Module) -> Lines | None:
        return by_from_pretrained(student, f', gguf_file="{FILE}"', ("gguf", "accelerate"))


_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q5_0": 8}
"""Form of most tensors -> llama.cpp's number for such a file."""


def _unknown(student: PreTrainedModel) -> str | None:
    """Why llama.cpp would compute something else, or nothing."""
    config = student.config
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in ARCHITECTURES or not type(student).__name__.endswith("ForCausalLM"):
        known = ", ".join(ARCHITECTURES)
        return f"is written for language models of {known}, and this is a {type(student).__name__}"
    if rope.get("rope_type", "default") != "default":
        return f"is written for positions without scaling, and these are {rope['rope_type']}"
    if any(getattr(config, name, False) for name in ("mlp_bias", "use_sliding_window")) or (
        config.model_type == "llama" and config.attention_bias
    ):
        return "is written for models without biases of their own and without sliding windows"
    if config.model_type == "qwen3" and config.head_dim != _QWEN3_HEAD:
        return f"is checked by transformers' reader, which takes heads of Qwen3 to be {_QWEN3_HEAD} wide"
    return None


def _describe(writer: Any, config: Any) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = getattr(config, "rope_parameters", None) or {}
    writer.add_name(config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope.get("rope_theta") or 10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _tensors(student: PreTrainedModel) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Name, form and values of each tensor, in llama.cpp's order of rows."""
    import gguf

    config = student.config
    arch = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    layers = {f"{name}.weight": layer for name, layer in frozen_layers(student).items()}
    plain = without_quantization(student)
    tied = config.tie_word_embeddings
    for name, value in plain.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written is None:
            problem = f"has no place for {name}"
            raise UserError(problem, key="--to", value=Gguf.name, hint="export it with --to onnx, or --to hf")
        form, values = _stored(value, layers.get(name))
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = _interleaved(values, heads)
        yield written, form, np.ascontiguousarray(values)


def _stored(value: Tensor, layer: QuantizedLayer | None) -> tuple[str, NDArray[Any]]:
    if value.dim() < 2:
        return "F32", value.float().numpy()
    even = layer is not None and layer.scheme.weights.symmetric and layer.scheme.weights.format == "int"
    if even and isinstance(layer, (QuantizedLinear, QuantizedEmbedding)):
        form = form_of(layer.scheme.weights.bits)
        scales = scales_by_block(layer.weight_scale.float().numpy(), (value.shape[0], value.shape[1]))
        if form is not None and scales is not None:
            return form, packed(layer.integers().numpy(), scales, form)
    values = value.float().numpy()
    return ("F16", values.astype(np.float16)) if np.abs(values).max(initial=0) < _FLOAT16 else ("F32", values)


def _interleaved(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of each head in the order in which llama.cpp rotates them: pairs side by side, instead of half by half."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
