"""Models are tried with two padded rows before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distill.core.forward import forward
from distill.core.signals import Request
from distill.core.utils.errors import UserError
from distill.models.compatibility import check_length, positions_of
from distill.tasks import TextClassification
from distill.training.reads import check_reads

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 80,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "bos_token_id": 2,
}
TASK = TextClassification(["no", "yes"])


def made(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {name: size for name, size in SIZES.items() if kind != "xlnet" or name != "max_position_embeddings"}
    sizes |= {"d_head": 8} if kind == "xlnet" else {}
    config = AutoConfig.for_model(kind, **(sizes | TASK.head_config() | changes))
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.fixture
def tokenizer(tiny_tokenizer_dir: str) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def test_a_model_that_stumbles_over_a_batch_is_refused_before_training(tokenizer: Any) -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 3, "head_dim": 4}
    with pytest.raises(UserError, match=r"model.student: this LlamaForSeq\w+ cannot read a batch of text-class"):
        check_reads("model.student", made("llama", **heads), TASK, tokenizer, Request(logits=True))


def test_a_model_that_reads_other_batches_in_training_is_refused(tokenizer: Any) -> None:
    sizes = {"axial_pos_embds_dim": [8, 8], "axial_pos_shape": [8, 8], "attn_layers": ["local", "local"]}
    sizes |= {
        "attention_head_size": 8,
        "feed_forward_size": 24,
        "local_attn_chunk_length": 4,
        "max_position_embeddings": 64,
    }
    model = made("reformer", **sizes)
    check_reads("model.teacher", model, TASK, tokenizer, Request(logits=True))
    with pytest.raises(UserError, match=r"model\.student: .*If training, make sure that config\.axial_pos_shape"):
        check_reads("model.student", model.train(), TASK, tokenizer, Request(logits=True))


def test_trying_a_model_leaves_modes_and_generators_as_they_were(tokenizer: Any) -> None:
    model = made("bert").train()
    model.dropout.eval()
    before = torch.get_rng_state()
    check_reads("model.student", model, TASK, tokenizer, Request(logits=True, hidden_states=frozenset({1})))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.dropout.training


@pytest.mark.parametrize(("kind", "changes"), [("roberta", {"type_vocab_size": 1}), ("gpt2", {}), ("distilbert", {})])
def test_models_without_token_types_read_pairs_as_if_there_were_none(kind: str, changes: dict[str, Any]) -> None:
    model = made(kind, **changes)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    pair = {"input_ids": ids, "token_type_ids": torch.tensor([[0, 0, 1, 1, 1]])}
    with torch.no_grad():
        expected = forward(model, {"input_ids": ids}, Request(logits=True)).logits
        found = forward(model, pair, Request(logits=True)).logits
    assert torch.equal(found, expected)


def test_token_types_reach_a_model_that_has_them() -> None:
    model = made("bert")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    pair = {"input_ids": ids, "token_type_ids": torch.tensor([[0, 0, 1, 1, 1]])}
    with torch.no_grad():
        expected = model(**pair).logits
        assert torch.equal(forward(model, pair, Request(logits=True)).logits, expected)
        assert not torch.equal(model(input_ids=ids).logits, expected)


def test_relative_positions_have_no_end_and_robertas_begin_behind_the_padding() -> None:
    assert positions_of(made("xlnet")) is None  # whose configuration says -1
    assert positions_of(made("roberta", pad_token_id=1)) == 38
    check_length("data.max_length", 1000, [("model.student", made("xlnet"))])
    with pytest.raises(UserError, match=r"model\.student has 38 positions"):
        check_length("data.max_length", 39, [("model.student", made("roberta", pad_token_id=1))])
