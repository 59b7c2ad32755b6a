"""One vector a text."""

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from distill.core.forward import forward
from distill.core.pooling import Pooling, pool, pooling_of, set_pooling
from distill.core.pooling_files import pooling_files, read_pooling
from distill.core.signals import Request
from distill.core.utils.errors import UserError

ORACLES = {
    "mean": lambda rows: rows.mean(0),
    "cls": lambda rows: rows[0],
    "max": lambda rows: rows.max(0),
    "lasttoken": lambda rows: rows[-1],
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", ORACLES)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_text_has_the_vector_of_its_own_tokens_wherever_the_padding_is(mode, side, normalize):
    torch.manual_seed(0)
    hidden, lengths = torch.randn(3, 5, 4) - 2, (5, 2, 1)  # below 0, where a padding of zeros would be the largest
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if side == "left" else mask
    found = pool(hidden, mask, Pooling(mode, normalize))
    for row in range(3):
        expected = ORACLES[mode](hidden[row][mask[row]].numpy())
        expected = expected / np.linalg.norm(expected) if normalize else expected
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-5)


def bert(kind=BertModel):
    return kind(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    ).eval()


def test_a_model_that_pools_gives_vectors_where_others_give_logits_and_has_no_pooler():
    model = bert()
    inputs = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
        set_pooling(model, Pooling("mean"))
        vectors = forward(model, inputs, Request(logits=True)).logits
    torch.testing.assert_close(vectors, torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)]))
    assert not any("pooler" in name for name, _ in model.named_parameters())
    assert pooling_of(BertModel(BertConfig.from_dict(json.loads(model.config.to_json_string())))) == Pooling("mean")


def test_a_model_without_last_hidden_states_is_refused():
    model = bert(BertForSequenceClassification)
    set_pooling(model, Pooling())
    with pytest.raises(UserError, match="no last_hidden_state"):
        forward(model, {"input_ids": torch.ones(1, 3, dtype=torch.long)}, Request(logits=True))


@pytest.mark.parametrize("pooling", [Pooling("mean", True), Pooling("cls"), Pooling("lasttoken", True)])
def test_what_is_written_for_sentence_transformers_is_read_again(pooling):
    files = {name: json.loads(text) for name, text in pooling_files(pooling, 8, 128).items()}
    assert read_pooling(files.get) == pooling
    assert [part["type"].rpartition(".")[2] for part in files["modules.json"]][:2] == ["Transformer", "Pooling"]
    assert files["1_Pooling/config.json"]["word_embedding_dimension"] == 8
    assert files["sentence_bert_config.json"]["max_seq_length"] == 128


def parts(*kinds):
    places = {"Transformer": "", "Pooling": "1_Pooling"}
    return [{"type": f"sentence_transformers.models.{kind}", "path": places.get(kind, f"2_{kind}")} for kind in kinds]


@pytest.mark.parametrize("config", [{"pooling_mode": "cls"}, {"pooling_mode_cls_token": True}])
def test_old_and_new_files_say_the_same(config):
    files = {"modules.json": parts("Transformer", "Pooling"), "1_Pooling/config.json": config}
    assert read_pooling(files.get) == Pooling("cls")
    assert read_pooling({}.get) is None


@pytest.mark.parametrize(
    ("modules", "config", "said"),
    [
        (parts("Transformer", "Pooling", "Dense"), {"pooling_mode": "mean"}, "there is a Dense"),
        (parts("Transformer", "Pooling"), {"pooling_mode": "weightedmean"}, "weightedmean"),
        (
            parts("Transformer", "Pooling"),
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            "cls and max",
        ),
        (parts("Transformer", "Pooling"), None, "nothing that is known"),
        (parts("BoW"), None, "begins with no Transformer"),
    ],
)
def test_what_is_pooled_otherwise_is_refused_by_name(modules, config, said):
    with pytest.raises(UserError, match=said):
        read_pooling({"modules.json": modules, "1_Pooling/config.json": config}.get)
