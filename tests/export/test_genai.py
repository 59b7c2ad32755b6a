"""Language models in onnxruntime-genai write what they write in torch, from keys and values that the graph keeps."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import WeightScheme
from distill.core.record import note
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export import genai
from distill.export.genai import CONFIG, OnnxGenAI
from distill.export.onnx.cache import greedy
from distill.export.onnx.runtime import logits, session
from distill.export.onnx.write import MODEL
from distill.export.script import SCRIPT
from distill.export.student import export
from distill.export.targets import check
from distill.export.verify import torch_logits
from distill.tasks import CausalLM

WORDS = 331
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 330,
}


def llama(**more: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES | more, tie_word_embeddings=True)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes: Any = {"n_positions": 80, "n_embd": 32, "n_layer": 1, "n_head": 4, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, bos_token_id=0, eos_token_id=330, **sizes)).eval()


def batch() -> Batch:
    ids = torch.randint(1, 300, (3, 13), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids).bool()
    real[1, 9:] = False  # shorter, and padded
    return Batch(
        {"input_ids": ids, "attention_mask": real.long()},
        tokens=real,
        mask=real,
        labels=ids.roll(-1, 1),
        extras={"bytes": torch.ones_like(ids)},
    )


@pytest.mark.slow
def test_a_folder_writes_what_torch_writes(
    tmp_path: Path, small_tokenizers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer, folder = llama(), small_tokenizers.byte_level(320), tmp_path / "out"
    report = export(model, "onnx-genai", folder, [batch()], task=CausalLM(), tokenizer=tokenizer)
    assert report["equal_greedy_tokens"] == report["greedy_tokens"] == 64
    assert "the first 64 of 64 are torch's" in capsys.readouterr().out
    assert report["verified"]["relative_error"] < 1e-5, "of texts read in two parts"
    assert report["verdict"] == [], "it reads texts by its own tokenizer too"
    graph = onnx.load(folder / MODEL).graph
    names = {"input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value"}
    assert {value.name for value in graph.input} == names
    assert {value.name for value in graph.output} == {"logits", "present.0.key", "present.0.value"}
    assert [list(kept.dims) for kept in graph.initializer if WORDS in kept.dims] == [[WORDS, 32]], "one table"
    config = json.loads((folder / CONFIG).read_text())["model"]
    assert config["decoder"]["num_key_value_heads"] == 2
    assert config["decoder"]["head_size"] == 8

    inputs = batch().inputs  # and as `distill predict` reads it
    found, real = logits(session(folder / MODEL), inputs), inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], torch_logits(model)(inputs)[real], rtol=1e-4, atol=1e-4)

    monkeypatch.setattr("sys.argv", [SCRIPT, "The weather"])
    runpy.run_path(str(folder / SCRIPT))
    given = tokenizer("The weather", return_tensors="pt")
    expected = model.generate(**given, max_new_tokens=20, do_sample=False, pad_token_id=0)[0]
    assert capsys.readouterr().out == tokenizer.decode(expected) + "\n"


@pytest.mark.slow
def test_integers_are_kept_and_write_the_same(tmp_path: Path) -> None:
    model = gpt2()
    quantize(model, weights=WeightScheme(), embeddings=WeightScheme())
    report = export(model, "onnx-genai", tmp_path / "out", [batch()], task=CausalLM(), isa="vnni")
    assert report["equal_greedy_tokens"] == report["greedy_tokens"] == 64, "inputs are not rounded here"
    assert report["quantized_layers"] == 7
    tables = [kept for kept in onnx.load(tmp_path / "out" / MODEL).graph.initializer if list(kept.dims) == [WORDS, 32]]
    assert [kept.data_type for kept in tables] == [onnx.TensorProto.INT8], "smaller ones the exporter folds into floats"


@pytest.mark.parametrize(("lead", "refused"), [(0.5, True), (1e-6, False)])
def test_other_tokens_are_refused_unless_two_are_as_likely(
    lead: float, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genai, "_generated", lambda *_: [5, 6, 9])
    made, leads = [5, 6, 7, 8], [0.5, 0.5, lead, 0.5]
    if refused:
        with pytest.raises(UserError, match="writes another token than torch after 2 of 4; nothing was written"):
            genai._agreed(Path(), [1], made, leads, False)
    else:
        assert genai._agreed(Path(), [1], made, leads, False) == 2
    assert genai._agreed(Path(), [1], made, leads, True) == 2, "integers round"


def test_greedy_is_generate_and_its_leads_are_of_the_logits() -> None:
    model, ids = llama(), [3, 1, 4]
    made, leads = greedy(model, ids, 5, [330])
    expected = model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert expected[0].tolist() == ids + made
    with torch.no_grad():
        top = model(torch.tensor([ids + made[:3]])).logits[0, -1]
    first, second = top.topk(2).values
    assert leads[3] == pytest.approx(float((first - second) / top.abs().max()), rel=1e-3)
    assert greedy(model, ids, 9, [made[1]])[0] == made[:2]


def test_a_tokenizer_that_it_reads_otherwise_is_said(tmp_path: Path, chat_tokenizer: Any) -> None:
    (tmp_path / CONFIG).write_text("{}")  # it cannot be opened at all
    assert "predict.py does" in genai._tokenizer_read(tmp_path, chat_tokenizer())["warnings"][0]
    assert genai._tokenizer_read(tmp_path, None) == {}


def sliding() -> nn.Module:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))


def unequal() -> nn.Module:
    """Its second layer has half of the first one's heads of keys."""
    model = llama(num_hidden_layers=2)
    attention = model.model.layers[1].self_attn
    attention.k_proj, attention.v_proj = (nn.Linear(32, 8, bias=False) for _ in range(2))
    attention.num_key_value_groups = 4
    note(model, {"kind": "remove"})
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: nn.Linear(2, 2), "for language models of transformers, and this is a Linear"),
        (
            lambda: BertForSequenceClassification(BertConfig(**{**SIZES, "num_hidden_layers": 1})),
            "this is a BertForSeq",
        ),
        (lambda: T5ForConditionalGeneration(T5Config(d_model=8, num_layers=1, num_heads=2, d_ff=8)), "this is a T5For"),
        (unequal, "numbers of heads .steps.0 of its compression.json: remove."),
        (sliding, "keeps something else than keys and values of all tokens in some layers"),
    ],
)
def test_what_keeps_no_keys_and_values_is_refused(model: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"--to = 'onnx-genai': .*{said}.*--to .*onnx,"):
        check(OnnxGenAI(), model())
