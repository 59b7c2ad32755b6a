"""The promises of where an exported model may find the padding of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from distill.export.onnx.graph import Logits, to_onnx
from distill.export.onnx.padding import said
from distill.export.onnx.runtime import logits, session
from distill.export.student import write_beside

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "llama": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "bart": {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16},
    "fnet": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16},
}
ROW = {"input_ids": torch.tensor([[5, 9, 7, 11, 6]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


def model(kind: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SIZES[kind])
    made = (AutoModelForMaskedLM if kind == "fnet" else AutoModelForCausalLM).from_config(config).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)  # positions count
    return made


@pytest.mark.parametrize(
    ("kind", "plain", "counted"),
    [
        ("llama", ["right", "left"], ["right", "left"]),
        ("gpt2", ["right"], ["right", "left"]),
        ("bart", ["right"], ["right"]),  # takes no positions
        ("fnet", [], []),
    ],
)
def test_positions_are_counted_where_that_mends_padding_on_the_left(
    kind: str, plain: list[str], counted: list[str]
) -> None:
    made = model(kind)
    assert Logits(made, ROW, counts=False).sides(ROW) == plain
    assert Logits(made, ROW).sides(ROW) == counted
    assert bool(said(counted)) is (counted == [])


def test_a_file_gives_a_text_padded_on_the_left_the_logits_that_transformers_gives_it_alone(tmp_path: Path) -> None:
    gpt2 = model("gpt2")
    to_onnx(gpt2, tmp_path / "model.onnx", ROW)
    longer = torch.tensor([[5, 9, 7, 11, 6, 4, 3, 8], [0, 0, 0, 5, 9, 7, 11, 6]])
    mask = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])
    found = logits(session(tmp_path / "model.onnx"), {"input_ids": longer, "attention_mask": mask})
    with torch.no_grad():
        torch.testing.assert_close(found[0], gpt2(longer[:1]).logits[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1, 3:], gpt2(ROW["input_ids"]).logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("to", "sides", "expected"),
    [
        ("onnx", ["right"], "right"),
        ("onnx", ["right", "left"], "left"),
        ("onnx", [], "left"),
        ("hf", ["right"], "left"),
    ],
)
def test_the_tokenizer_beside_a_file_pads_where_the_file_may_be_padded(
    to: str, sides: list[str], expected: str, tmp_path: Path, tiny_tokenizer_dir: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir, padding_side="left")
    write_beside(tmp_path, tokenizer, nn.Linear(1, 1), {"to": to, "padding": sides}, pads=to == "onnx")
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == expected
