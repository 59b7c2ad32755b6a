from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from distill.core.signals import IGNORE, Request
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve
from distill.data.features import Ragged, Samples
from distill.data.packing import PackedSamples, sliding_windows
from distill.data.text import TextData
from distill.tasks import CausalLM

TEXTS = ["def f(x):\n    return x\n", "é 漢字 🙂\n\n\n", "a", "", "x = 1\n" * 30, "class A:\n\tpass\n"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))


@pytest.fixture(scope="module")
def documents(tokenizer):
    features = CausalLM().encode(tokenizer, None)({"text": TEXTS})
    return Samples({name: ragged(rows) for name, rows in features.items()}, seed=0)


def ragged(rows):
    return Ragged(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))


def blocks(documents, tokenizer, length, isolate=True):
    packed = PackedSamples(documents, length, isolate=isolate)
    return CausalLM().collate([packed[0, i] for i in range(len(packed))], tokenizer)


@pytest.mark.parametrize("length", [2, 7, 16, 1000])
def test_every_token_is_predicted_once_and_none_is_lost(documents, tokenizer, length):
    labels = blocks(documents, tokenizer, length).labels
    expected = [t for text in TEXTS if text for t in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert labels[labels != IGNORE].tolist() == expected


@pytest.mark.parametrize("length", [7, 1000])
def test_each_label_is_the_token_after_its_position(documents, tokenizer, length):
    batch = blocks(documents, tokenizer, length)
    inputs = batch.inputs["input_ids"][batch.labels != IGNORE]
    labels = batch.labels[batch.labels != IGNORE]
    assert inputs[0] == tokenizer.bos_token_id
    assert labels[:-1].tolist() == inputs[1:].tolist()  # BOS is EOS here: the next document's start is this one's end


@pytest.mark.parametrize("length", [7, 16, 1000])
def test_the_bytes_of_the_labels_add_up_to_the_text(documents, tokenizer, length):
    batch = blocks(documents, tokenizer, length)
    assert batch.extras["bytes"].sum() == sum(len(text.encode()) for text in TEXTS)
    assert (batch.extras["bytes"][batch.labels == IGNORE] == 0).all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_document_in_a_block_is_read_as_if_it_stood_alone(documents, tokenizer, family, implementation):
    model = tiny_model(family, implementation, len(tokenizer))
    batch = blocks(documents, tokenizer, 200)
    packed = CausalLM().forward(model, batch, Request(logits=True)).logits
    shared = CausalLM().forward(model, blocks(documents, tokenizer, 200, isolate=False), Request(logits=True)).logits
    for a, b in pairwise(documents.features["input_ids"].offsets[1:]):
        alone = model(input_ids=batch.inputs["input_ids"][:1, a:b], use_cache=False).logits
        torch.testing.assert_close(packed[:1, a:b], alone, rtol=0, atol=1e-5)
        assert (shared[:1, a:b] - alone).abs().max() > 1e-3


def tiny_model(family, implementation, vocabulary):
    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=256, bos_token_id=0, eos_token_id=0
        )
        kind = GPT2LMHeadModel
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=vocabulary, initializer_range=0.2, **sizes)
        kind = LlamaForCausalLM
    config.initializer_range = 0.2
    config._attn_implementation = implementation
    return kind(config).eval()


def test_a_row_without_packing_gives_the_same_likelihood_as_its_block(documents, tokenizer):
    model = tiny_model("llama", "sdpa", len(tokenizer))
    task = CausalLM()
    scores = []
    for batch in (
        blocks(documents, tokenizer, 1000),
        task.collate([documents[0, i] for i in range(len(documents))], tokenizer),
    ):
        metrics = task.metrics()
        with torch.no_grad():
            task.update(metrics, task.forward(model, batch, Request(logits=True)).logits, batch)
        scores.append({name: metric.compute().item() for name, metric in metrics.items()})
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_a_batch_of_whole_blocks_has_no_mask(text_folder):
    data = TextData(
        text_folder, task="causal-lm", tokenizer="distill:quickstart/tokenizer", pack_length=16, batch_size=4
    )
    whole = [b for b in data.train_dataloader() if b.tokens is None]
    assert len(whole) >= len(data.train_dataloader()) - 1
    for batch in whole:
        assert batch.mask is None
        assert set(batch.inputs) == {"input_ids", "position_ids"}
        assert batch.labels.shape[1] == 16


def test_unpacked_documents_are_cut_to_the_most_tokens(text_folder):
    data = TextData(
        text_folder, task="causal-lm", tokenizer="distill:quickstart/tokenizer", pack_length=0, max_length=6
    )
    for batch in data.train_dataloader():
        assert batch.labels.shape[1] <= 6
        assert (batch.mask is None) == (batch.tokens is None) == ("attention_mask" not in batch.inputs)


def test_positions_begin_again_with_every_document_and_every_block():
    lengths = [4, 1, 1, 3, 2, 1]  # cut at 4 and 8: a block begins with documents of one token, and with half of one
    samples = Samples({"input_ids": ragged([np.arange(n) for n in lengths])}, seed=0)
    packed = PackedSamples(samples, 4, isolate=True)
    positions = [packed[0, block]["position_ids"].tolist() for block in range(len(packed))]
    assert positions == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize(("length", "stride"), [(16, 16), (16, 5), (16, 1), (7, 3), (1000, 10)])
@pytest.mark.parametrize("isolate", [True, False])
def test_windows_predict_every_token_once_from_all_that_a_window_holds_before_it(
    documents, tokenizer, length, stride, isolate
):
    windows = sliding_windows(documents, length, stride, isolate=isolate)
    rows = [windows[0, i] for i in range(len(windows))]
    labels = [label for row in rows for label in row["labels"].tolist() if label != IGNORE]
    assert labels == documents.features["labels"].values.tolist()
    assert sum(int(row["bytes"].sum()) for row in rows) == documents.features["bytes"].values.sum()
    stream = documents.features["input_ids"]
    place = 0
    for number, row in enumerate(rows):
        begin = number * stride
        assert row["input_ids"].tolist() == stream.values[begin : begin + length].tolist()
        for at in np.flatnonzero(row["labels"] != IGNORE):
            document = int(stream.offsets[np.searchsorted(stream.offsets, place, "right") - 1])
            assert begin + at == place
            assert at >= min(place, length - stride)
            if isolate:
                assert row["position_ids"][at] == place - max(document, begin)
            place += 1


def test_the_perplexity_by_windows_is_that_of_each_token_after_all_that_its_window_holds(documents, tokenizer):
    model, task = tiny_model("llama", "sdpa", len(tokenizer)), CausalLM()
    windows = sliding_windows(documents, 12, 4, isolate=False)
    metrics = task.metrics()
    with torch.no_grad():
        batch = task.collate([windows[0, i] for i in range(len(windows))], tokenizer)
        task.update(metrics, task.forward(model, batch, Request(logits=True)).logits, batch)
        ids, labels = (torch.from_numpy(documents.features[name].values).long() for name in ("input_ids", "labels"))
        nats = []
        for place, label in enumerate(labels):
            begin = 0 if place < 12 else 4 * -(-(place - 11) // 4)  # of the first window that holds it
            nats.append(-model(ids[None, begin : place + 1]).logits[0, -1].log_softmax(-1)[label])
    assert metrics["perplexity"].compute().item() == pytest.approx(torch.stack(nats).mean().exp().item(), rel=1e-4)


def test_validation_goes_by_windows_and_training_does_not(text_folder):
    settings = {"task": "causal-lm", "tokenizer": "distill:quickstart/tokenizer", "pack_length": 16}
    plain, sliding = TextData(text_folder, **settings), TextData(text_folder, **settings, eval_stride=4)
    assert plain.samples("train").fingerprint == sliding.samples("train").fingerprint
    predicted = [sum(int((b.labels != IGNORE).sum()) for b in data.val_dataloader()) for data in (plain, sliding)]
    assert predicted[0] == predicted[1]
    assert len(sliding.samples("validation")) > 3 * len(plain.samples("validation"))
    with pytest.raises(UserError, match="must lie between 1 and a block's 16 tokens"):
        TextData(text_folder, **settings, eval_stride=17).setup("fit")
    with pytest.raises(UserError, match="has no effect with samples that are read whole"):
        TextData(text_folder, **{**settings, "pack_length": 0}, eval_stride=4).setup("fit")
