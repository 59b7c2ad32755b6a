"""A file that transformers' reader opens: the student's logits, integers and tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Regex, pre_tokenizers
from torch import nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import WeightScheme
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.gguf.target import FILE
from distill.export.gguf.tokenizer import pre_tokenizer_name
from distill.export.targets import TARGETS, write
from distill.tasks import CausalLM

GROUPS = WeightScheme(bits=4, granularity="group", group_size=32)
SIZES: dict[str, Any] = {
    "vocab_size": 330,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
KINDS = {
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**SIZES, **more)),
    "qwen2": lambda **more: Qwen2ForCausalLM(Qwen2Config(**SIZES, **more)),
    "qwen3": lambda **more: Qwen3ForCausalLM(Qwen3Config(**SIZES, **{"head_dim": 128, **more})),
}


@pytest.fixture(scope="module")
def tokenizer(small_tokenizers: Any) -> Any:
    made = small_tokenizers.byte_level(320)
    made.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return made


def made(kind: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    model = KINDS[kind](**more).eval()
    for name, parameter in model.named_parameters():  # norms and biases that are not all alike
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.2)
    return model


def batches() -> Iterator[Batch]:
    torch.manual_seed(1)
    for length in (24, 9):
        ids = torch.randint(1, 320, (3, length))
        mask = torch.ones_like(ids)
        yield Batch({"input_ids": ids, "attention_mask": mask}, tokens=mask.bool(), labels=ids, extras={"bytes": mask})


def written(student: nn.Module, folder: Path, tokenizer: Any) -> tuple[dict[str, Any], GGUFReader]:
    target = TARGETS["gguf"]()
    target.tokenizer = tokenizer
    target.check(student)
    return write(target, student, folder, task=CausalLM(), batches=batches), GGUFReader(folder / FILE)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_float_student_is_opened_with_its_logits(kind: str, tied: bool, tokenizer: Any, tmp_path: Path) -> None:
    report, reader = written(made(kind, tie_word_embeddings=tied), tmp_path, tokenizer)
    assert ("output.weight" not in {tensor.name for tensor in reader.tensors}) is tied
    assert report["verified"]["divergence"] < 1e-5  # matrices are float16
    assert set(report["tensors"]) == {"F16", "F32"}


def test_codes_of_other_levels_are_no_integers_of_a_block(tokenizer: Any, tmp_path: Path) -> None:
    student = made(next(iter(KINDS)))
    quantize(student, weights=WeightScheme(bits=4, format="nf4", granularity="group", group_size=32))
    report, _ = written(student, tmp_path, tokenizer)
    assert set(report["tensors"]) == {"F16", "F32"}
    assert report["verified"]["divergence"] < 1e-5


@pytest.mark.parametrize(
    ("weights", "form", "beside"),
    [
        (GROUPS, "Q4_0", {"down_proj": WeightScheme(bits=8)}),
        (WeightScheme(bits=8), "Q8_0", {}),
        (WeightScheme(bits=5, granularity="tensor"), "Q5_0", {}),
    ],
)
def test_the_integers_are_those_that_training_ended_with(
    weights: WeightScheme, form: str, beside: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    student = copy.deepcopy(made("llama", tie_word_embeddings=True))
    quantize(student, weights=weights, embeddings=WeightScheme(bits=8), overrides=beside)
    report, reader = written(student.eval(), tmp_path, tokenizer)
    assert report["tensors"] == {
        **{"Q8_0": 1 + 2 * len(beside)},
        **({"Q8_0": 1 + 14} if form == "Q8_0" else {form: 14 - 2 * len(beside)}),
        "F32": 5,
    }
    # The scale alone is rounded, to float16: a part in two thousand.
    assert report["verified"]["divergence"] < 1e-4
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    up = student.get_submodule("model.layers.1.mlp.up_proj")
    found = dequantize(tensors["blk.1.ffn_up.weight"].data, tensors["blk.1.ffn_up.weight"].tensor_type)
    np.testing.assert_allclose(found, up.weight.detach().numpy(), rtol=2**-10)
    zeros = up.integers().numpy() == 0  # type: ignore[operator]
    assert (found[zeros] == 0).all()


def test_the_tokenizer_is_whole(tokenizer: Any, tmp_path: Path) -> None:
    written(made("llama"), tmp_path, tokenizer)
    opened = AutoTokenizer.from_pretrained(tmp_path, gguf_file=FILE)
    for text in ("The weather in the north", "  naïve 漢字 🙂 1234\n\n\tx = 1", "<|end|>x"):
        assert opened(text)["input_ids"] == tokenizer(text)["input_ids"]
    fields = GGUFReader(tmp_path / FILE).fields
    assert len(fields["tokenizer.ggml.tokens"].data) == SIZES["vocab_size"]  # as many as the table has rows
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    assert fields["tokenizer.ggml.token_type"].contents()[0] == 3  # a control token


def test_how_a_text_is_cut_first_has_a_name_or_is_refused(tokenizer: Any, small_tokenizers: Any) -> None:
    def named(*steps: Any) -> str:
        other = copy.deepcopy(tokenizer)
        other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
        return pre_tokenizer_name(other)

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert pre_tokenizer_name(tokenizer) == "gpt-2"
    assert named(digits, pre_tokenizers.ByteLevel(add_prefix_space=False)) == "smollm"
    assert named(pre_tokenizers.Split(Regex(words + rest), "isolated"), level) == "qwen2"
    assert named(pre_tokenizers.Split(Regex(words + "{1,3}" + rest), "isolated"), level) == "llama-bpe"
    for steps in (
        [pre_tokenizers.Split(Regex(words + "{1,2}" + rest), "isolated"), level],
        [pre_tokenizers.ByteLevel(add_prefix_space=True)],
        [digits, level],
    ):
        with pytest.raises(UserError, match=r"llama\.cpp knows no tokenizer that cuts texts as this student's"):
            named(*steps)
    with pytest.raises(UserError, match=r"llama\.cpp knows no tokenizer"):
        pre_tokenizer_name(small_tokenizers.spaced(300))


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        (
            lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2)),
            "is written for language models of llama",
        ),
        (lambda: made("llama", attention_bias=True), "without biases"),
        (lambda: made("llama", mlp_bias=True), "without biases"),
        (
            lambda: made("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
            "positions without scaling, and these are linear",
        ),
        (lambda: nn.Linear(2, 2), "Linear is none of the models"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(student: Any, problem: str) -> None:
    with pytest.raises(UserError, match=rf"--to = 'gguf': .*{problem}"):
        TARGETS["gguf"]().check(student())


def test_a_student_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a tokenizer beside the weights"):
        written(made("llama"), tmp_path, None)
