"""The target ``onnx-genai``: a language model with a cache of keys and values, in a folder for onnxruntime-genai."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.core.utils.errors import UserError
from distill.export.base import ExportTarget, Predict
from distill.export.fit import Obstacle
from distill.export.onnx.cache import CacheShape, cache_shape, greedy, step, to_onnx_with_cache
from distill.export.onnx.convert import frozen_layers, largest_integer, with_integers
from distill.export.onnx.isa import weight_type
from distill.export.onnx.products import products
from distill.export.onnx.runtime import UNWRITTEN, no_past, session
from distill.export.onnx.write import MODEL
from distill.export.script import Lines
from distill.models.compatibility import positions_of

__all__ = ["CONFIG", "OnnxGenAI"]

CONFIG = "genai_config.json"

STEPS = 64
"""Tokens that are generated to compare."""

_HINT = "export it with --to onnx, or --to hf"
_TIE = 1e-4
_PROMPT = 8
_CONTEXT = 2048  # tokens, where the model names no most
_OTHER_TOKENS = (
    "onnxruntime-genai's own tokenizer does not read texts as this one does: give it the ids of transformers', as "
    "predict.py does"
)
_SAID = "A text of 3 words, it's one:\n\tdone."


class OnnxGenAI(ExportTarget):
    """``model.onnx`` that reads and gives keys and values, and ``genai_config.json``: with integers, if it has them.

    It is compared with the student in two parts, of which the second reads the keys and values of the first, and then
    by the tokens that onnxruntime-genai generates: in float they must be those of torch.
    """

    name = "onnx-genai"
    runtime = "onnxruntime"
    extra = "genai"
    integers = True
    counts_positions = True
    for_isas = True

    def obstacles(self, student: nn.Module) -> Iterator[Obstacle]:
        if not isinstance(student, PreTrainedModel) or not _writes(student):
            yield Obstacle(f"it is for language models of transformers, and this is a {type(student).__name__}")
        elif isinstance(shape := cache_shape(student), str):
            yield Obstacle(f"it is for models of equal layers, and this one {shape}", "remove")

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        assert isinstance(student, PreTrainedModel)
        shape = cache_shape(student)
        assert isinstance(shape, CacheShape)
        layers = frozen_layers(student)
        weights = weight_type(self.isa, largest_integer(layers))
        written: Any = with_integers(student, unsigned=weights == "uint8") if layers else student
        names = to_onnx_with_cache(written, folder / MODEL, shape)
        ends = _ends(student, self.tokenizer)
        config = _config(student, shape, names, ends, self.tokenizer)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        row = example["input_ids"][0][example["attention_mask"][0].bool()][:_PROMPT].tolist()
        room = (positions_of(student) or STEPS + _PROMPT) - len(row)
        made, leads = greedy(student, row, min(STEPS, room), ends)
        report: dict[str, Any] = {
            "greedy_tokens": len(made),
            "equal_greedy_tokens": _agreed(folder, row, made, leads, bool(layers)),
        }
        if layers:
            report |= {"isa": self.isa, "weights": weights, "largest_weight": largest_integer(layers)}
            report |= products(folder / MODEL, student)
        return {**report, **_tokenizer_read(folder, self.tokenizer)}

    def open(self, folder: Path) -> Predict:
        run = session(folder / MODEL)

        def predict(inputs: dict[str, Tensor]) -> Tensor:
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            past, parts, half = no_past(run, len(ids)), [], ids.shape[1] // 2
            for begin, end in ((0, half), (half, ids.shape[1])):
                if begin < end:
                    logits, past = step(run, ids[:, begin:end], mask[:, :end], past)
                    parts.append(logits)
            return torch.cat(parts, 1)

        return predict

    def lines(self, student: nn.Module) -> Lines | None:
        return Lines(
            packages=("onnxruntime-genai", "transformers"),
            imports=("import onnxruntime_genai as og",),
            opens=(
                "model = og.Model(str(folder))",
                "def write(ids, count=20):",
                "    settings = og.GeneratorParams(model)",
                "    settings.set_search_options(max_length=ids.shape[1] + count, do_sample=False)",
                "    generator = og.Generator(model, settings)",
                '    generator.append_tokens(ids.astype("int32"))',
                "    while not generator.is_done():",
                "        generator.generate_next_token()",
                "    return generator.get_sequence(0)",
            ),
            logits='write(inputs["input_ids"])',
            writes='write(inputs["input_ids"])',
        )


def _writes(student: PreTrainedModel) -> bool:
    """Whether it goes on with a text, token by token."""
    return student.can_generate() and not student.config.is_encoder_decoder


def _ends(student: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Tokens after which nothing is written."""
    found = [getattr(tokenizer, "eos_token_id", None)]
    for config in (student.generation_config, student.config):
        ends = getattr(config, "eos_token_id", None)
        found += ends if isinstance(ends, list) else [ends]
    return list(dict.fromkeys(one for one in found if isinstance(one, int)))


def _config(
    student: PreTrainedModel, shape: CacheShape, names: list[str], ends: list[int], tokenizer: Any
) -> dict[str, Any]:
    config: Any = student.config.get_text_config()
    first = getattr(tokenizer, "bos_token_id", None)
    padding = getattr(tokenizer, "pad_token_id", None)
    length = getattr(config, "max_position_embeddings", None) or _CONTEXT
    inputs: dict[str, Any] = {name: name for name in names if not name.startswith("past")}
    parts = {"key": "past_key_values.%d.key", "value": "past_key_values.%d.value"}
    outputs = {"key": "present.%d.key", "value": "present.%d.value"}
    decoder: dict[str, Any] = {
        "filename": MODEL,
        "head_size": shape.width,
        "hidden_size": config.hidden_size,
        "inputs": inputs | {f"past_{part}_names": name for part, name in parts.items()},
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "outputs": {"logits": "logits"} | {f"present_{part}_names": name for part, name in outputs.items()},
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
    }
    last = ends or [0]
    return {
        "model": {
            "bos_token_id": first if first is not None else last[0],
            "context_length": length,
            "decoder": decoder,
            "eos_token_id": last,
            "pad_token_id": padding if padding is not None else last[0],
            "type": "decoder",
            "vocab_size": config.vocab_size,
        },
        "search": {"do_sample": False, "max_length": length, "num_beams": 1, "past_present_share_buffer": False},
    }


# ---------------------------------------------------------------------- in the runtime that it is for


def _agreed(folder: Path, row: list[int], made: list[int], leads: list[float], rounded: bool) -> int:
    """How many tokens onnxruntime-genai generates as torch does, from the first on.

    Raises:
        UserError: if it generates others in float, and they are not as likely.
    """
    found = _generated(folder, row, len(made))
    same = next((i for i, (a, b) in enumerate(zip(made, found, strict=False)) if a != b), min(len(made), len(found)))
    if same < len(made) and not rounded and leads[same] > _TIE:
        problem = f"onnxruntime-genai writes another token than torch after {same} of {len(made)}{UNWRITTEN}"
        raise UserError(problem, key="--to", value=OnnxGenAI.name, hint=_HINT)
    return same


def _generated(folder: Path, row: list[int], count: int) -> list[int]:
    import onnxruntime_genai

    try:
        model = onnxruntime_genai.Model(str(folder))
        settings = onnxruntime_genai.GeneratorParams(model)
        settings.set_search_options(max_length=len(row) + count, do_sample=False)
        generator = onnxruntime_genai.Generator(model, settings)
        generator.append_tokens(np.array([row], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)][len(row) :]
    except Exception as error:  # a RuntimeError, and errors of onnxruntime's own
        problem = f"onnxruntime-genai cannot run it ({str(error).splitlines()[0][-200:]}){UNWRITTEN}"
        raise UserError(
            problem, key="--to", value=OnnxGenAI.name, hint="export it with --to onnx, or --to hf"
        ) from error


def _tokenizer_read(folder: Path, tokenizer: Any) -> dict[str, list[str]]:
    """A warning where onnxruntime-genai's own tokenizer does not read a text as ours does."""
    if tokenizer is None:
        return {}
    import onnxruntime_genai

    tokenizer.save_pretrained(folder)
    try:
        own = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(folder)))
        found = [int(token) for token in own.encode(_SAID)]
    except Exception:  # of a pattern, or a kind, that it does not know
        found = []
    same = found == tokenizer(_SAID)["input_ids"]
    return {} if same else {"warnings": [_OTHER_TOKENS]}
