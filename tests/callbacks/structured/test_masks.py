"""What structured pruning masks in training, and that it stays masked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from distill.callbacks import StructuredPruning
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.training.optimizer import OptimizerConfig

Make = Callable[..., Any]


class Watch(Callback):
    """Counts, after every optimizer step, what of BERT's first layer is zero, and what is masked."""

    def __init__(self) -> None:
        self.heads: list[int] = []
        self.neurons: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.count(pl_module.student.bert.encoder.layer[0]))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.count(pl_module.student.bert.encoder.layer[0])

    def count(self, layer: Any) -> None:
        attention = layer.attention
        rows = [m.weight.view(4, -1).abs().sum(1) for m in (attention.self.query, attention.self.key)]
        rows += [m.bias.view(4, -1).abs().sum(1) for m in (attention.self.query, attention.self.value)]
        rows.append(attention.output.dense.weight.view(16, 4, 4).abs().sum((0, 2)))
        into, out = layer.intermediate.dense, layer.output.dense
        neurons = [into.weight.abs().sum(1), into.bias.abs(), out.weight.abs().sum(0)]
        for part in rows:
            assert torch.equal(part == 0, ~layer.head_mask)
        for part in neurons:
            assert torch.equal(part == 0, ~layer.neuron_mask)
        self.heads.append(int((~layer.head_mask).sum()))
        self.neurons.append(int((~layer.neuron_mask).sum()))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_masked_weights_are_exactly_zero_after_every_step(
    name: Any, accumulate: int, classifier: Make, pair: Make, fit: Make
) -> None:
    optimizer = OptimizerConfig(
        name=name, lr=0.01, weight_decay=0.1, warmup=0, **({"momentum": 0.9} if name == "sgd" else {})
    )
    watch = Watch()
    pruning = StructuredPruning(heads=0.5, neurons=0.75, begin=1, end=5, every_n_steps=2, schedule="linear")
    module = pair(classifier(), optimizer)
    fit(module, pruning, watch, accumulate_grad_batches=accumulate)
    # Nothing until step 1, a half after step 3 (1 of 2 heads, 7.5 of 15 neurons), all after step 5; in optimizer steps.
    after = watch.neurons[accumulate :: accumulate + 1]
    assert after == [0, 0, 8, 8, 15, 15, 15, 15]
    assert watch.heads[accumulate :: accumulate + 1] == [0, 0, 1, 1, 2, 2, 2, 2]


def test_coordinates_of_the_stream_are_zero_wherever_it_is_written_and_read(
    classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    module = pair(classifier())
    fit(module, StructuredPruning(hidden=0.25, end=4, every_n_steps=1), max_steps=6)
    bert: Any = module.student.bert
    gone = ~module.student.hidden_mask  # type: ignore[operator]
    assert int(gone.sum()) == 4
    layer = bert.encoder.layer[1]
    columns = [bert.embeddings.word_embeddings, layer.attention.self.key, layer.intermediate.dense]
    rows = [layer.attention.output.dense, layer.output.dense, layer.output.LayerNorm, bert.embeddings.LayerNorm]
    for part in (*(m.weight.T for m in columns), *(p for m in rows for p in (m.weight, m.bias))):
        assert torch.equal(part.flatten(1).abs().sum(1) == 0 if part.dim() > 1 else part == 0, gone)
    hidden = module.student.eval()(**batches(1)[0].inputs, output_hidden_states=True).hidden_states  # type: ignore[operator]
    assert all((state[..., gone] == 0).all() and (state[..., ~gone] != 0).any() for state in hidden)


def test_hints_read_what_the_next_layer_sees(classifier: Make, batches: Make, pair: Make, fit: Make) -> None:
    losses = [CrossEntropy(), HintonKL(), FitNetHint({1: 1, 2: 2, 3: 3})]
    teacher = classifier(seed=3)
    module = pair(classifier(), teacher=teacher, losses=losses)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    fit(module, StructuredPruning(0.5, 0.5, 0.25, [2], end=4, every_n_steps=1), max_steps=6)
    hidden = module.student.eval()(**batches(1)[0].inputs, output_hidden_states=True).hidden_states  # type: ignore[operator]
    assert torch.equal(hidden[2], hidden[1])
    assert not torch.equal(hidden[3], hidden[2])
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_one_of_each_stays_in_every_layer(classifier: Make, pair: Make, fit: Make) -> None:
    for scope in ("layer", "global"):
        module = pair(classifier())
        fit(module, StructuredPruning(heads=0.99, neurons=0.99, scope=scope, end=1), max_steps=2)  # type: ignore[arg-type]
        for layer in module.student.bert.encoder.layer:  # type: ignore[union-attr]
            assert int(layer.head_mask.sum()) == int(layer.neuron_mask.sum()) == 1


EXACT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BY = {
    criterion: {"heads": 0.5, "neurons": 0.5, "hidden": 0.25, "layers": 1, "criterion": criterion}
    | {"begin": 1, "end": 2, "every_n_steps": 1}
    for criterion in ("taylor", "activation")
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, script: Make) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Criterion -> the student's state on each of two ranks."""
    out = tmp_path_factory.mktemp("ranks") / "state"
    script(Path(__file__).with_name("ranks.py"), out, json.dumps(EXACT), json.dumps(list(BY.values())))
    return {
        criterion: [torch.load(f"{out}.{number}.{rank}", weights_only=True) for rank in range(2)]
        for number, criterion in enumerate(BY)
    }


@pytest.mark.parametrize("criterion", list(BY))
def test_ranks_agree_and_measure_what_one_process_measures(
    criterion: str, ranks: Any, classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    first, second = ranks[criterion]
    assert all(torch.equal(first[name], second[name]) for name in first)
    module = pair(classifier(**EXACT))
    fit(module, StructuredPruning(**BY[criterion]), rows=batches(4), max_steps=2, accumulate_grad_batches=2)  # type: ignore[arg-type]
    alone = module.student.state_dict()
    for name in alone:
        if name.endswith(("_mask", "_importance")):
            torch.testing.assert_close(first[name], alone[name], rtol=1e-3, atol=1e-6)
    assert sum(int((~mask).sum()) for name, mask in alone.items() if name.endswith("head_mask")) == 6
