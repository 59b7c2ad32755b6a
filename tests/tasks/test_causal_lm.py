from __future__ import annotations

import math

import pytest
import torch
from torchmetrics import MaxMetric
from transformers import AutoTokenizer

from distill.core.lazy_logits import LazyLogits
from distill.core.signals import IGNORE, Batch, Signals
from distill.core.utils.paths import resolve
from distill.tasks import CausalLM
from distill.tasks.next_token import byte_lengths


@pytest.mark.parametrize("text", ["plain", "é", "漢字 and 🙂", " \n\t", "a\ud800b"])
def test_every_byte_is_given_to_one_token(text):
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    shown = text.replace("\ud800", "?")
    offsets = tokenizer(shown, return_offsets_mapping=True)["offset_mapping"]
    assert byte_lengths(text, offsets).sum() == len(text.encode("utf-8", "surrogatepass"))


def test_bytes_that_no_token_covers_go_to_the_next_one_and_the_rest_to_the_end():
    assert byte_lengths("  é b  ", [(2, 3), (4, 5)]).tolist() == [4, 2, 2]
    assert byte_lengths("dropped", []).tolist() == [7]


def test_scores_are_those_of_the_definition_in_float64():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(11, (3, 7), generator=generator)
    labels[1, 4:] = IGNORE
    sizes = torch.randint(1, 5, (3, 7), generator=generator) * (labels != IGNORE)
    logits = torch.randn(3, 7, 11, generator=generator)
    task = CausalLM()
    metrics = task.metrics()
    for row in range(3):
        batch = Batch(
            inputs={"input_ids": labels[row : row + 1]},
            labels=labels[row : row + 1],
            extras={"bytes": sizes[row : row + 1]},
        )
        task.update(metrics, logits[row : row + 1], batch)
    nats = count = right = 0
    for i in range(3):
        for t in range(7):
            if labels[i, t] != IGNORE:
                row = logits[i, t].double()
                nats += math.log(sum(math.exp(v) for v in row)) - row[labels[i, t]].item()
                right += int(row.argmax() == labels[i, t])
                count += 1
    assert metrics["perplexity"].compute().item() == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert metrics["bits_per_byte"].compute().item() == pytest.approx(nats / math.log(2) / sizes.sum().item(), rel=1e-5)
    assert metrics["token_accuracy"].compute().item() == pytest.approx(right / count)


def test_the_monitored_score_is_one_of_the_metrics():
    task = CausalLM()
    assert task.monitor in task.metrics()
    assert task.mode == "min"


def test_a_tokenizer_with_a_token_for_the_start_uses_it():
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    tokenizer.bos_token = "x"
    features = CausalLM().encode(tokenizer, None)({"text": ["ab"]})
    assert features["input_ids"][0][0] == tokenizer.convert_tokens_to_ids("x")
    assert features["labels"][0][-1] == tokenizer.eos_token_id
    assert features["input_ids"][0][1:].tolist() == features["labels"][0][:-1].tolist()


def test_the_bytes_of_a_document_that_is_cut_are_those_of_what_is_left():
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    text = "é = x + 1\nreturn 漢\n"
    features = CausalLM().encode(tokenizer, 5)({"text": [text]})
    kept = tokenizer.decode(features["labels"][0].tolist())
    assert text.startswith(kept)
    assert features["bytes"][0].sum() == len(kept.encode())


def test_padding_is_no_prediction_and_counts_in_no_mean():
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    rows = [{"input_ids": [5] * n, "labels": [6] * n, "bytes": [1] * n, "id": n} for n in (4, 1)]
    batch = CausalLM().collate(rows, tokenizer)
    assert batch.mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert int(batch.count) == 5
    assert batch.labels[1].tolist() == [6, IGNORE, IGNORE, IGNORE]
    assert int(CausalLM().collate(rows[:1], tokenizer).count) == 4  # without padding there is no mask


class WithLargest(CausalLM):
    """A metric of its own, of the logits themselves."""

    def metrics(self):
        return super().metrics() | {"largest": MaxMetric()}

    def update(self, metrics, logits, batch):
        super().update(metrics, logits, batch)
        metrics["largest"].update(logits)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_metric_of_ones_own_is_shown_the_logits(lazy):
    logits = LazyLogits(torch.randn(2, 3, 4), torch.randn(7, 4))
    batch = Batch({"input_ids": torch.zeros(2, 3).long()}, torch.ones(2, 3).long(), extras={"bytes": torch.ones(2, 3)})
    task = WithLargest()
    metrics = task.metrics()
    task.score(metrics, Signals(lazy_logits=logits) if lazy else Signals(logits.whole()), batch)
    assert metrics["largest"].compute() == logits.whole().max()
    expected = torch.nn.functional.cross_entropy(logits.whole().flatten(0, 1), batch.labels.flatten()).exp()
    torch.testing.assert_close(metrics["perplexity"].compute().float(), expected)
