"""The promises of structured pruning in training."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM

import distill
from distill.artifact import note, save
from distill.callbacks import (
    GradualMagnitudePruning,
    LowRank,
    QuantizationAwareTraining,
    ShareParameters,
    StructuredPruning,
)
from distill.errors import UserError
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.optim import OptimizerConfig
from distill.quantize.scheme import WeightScheme
from distill.signals import Batch

Make = Callable[..., Any]

FAMILIES = ["bert", "distilbert", "gpt2", "llama", "qwen2", "roberta"]


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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_what_was_masked_is_removed_and_reloads_identical(
    tmp_path: Path, family: str, hidden: float, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    module = pair(classifier(family))
    pruning = StructuredPruning(heads=0.5, neurons=0.5, hidden=hidden, layers=1, end=4, every_n_steps=1)
    fit(module, pruning, max_steps=6)
    student = module.student
    masked, before = logits(student), sum(p.numel() for p in student.parameters())
    steps = pruning.finish(student)
    removed = logits(student)
    torch.testing.assert_close(removed, masked, rtol=1e-6, atol=1e-6)
    assert sum(p.numel() for p in student.parameters()) < 0.75 * before
    assert not any("mask" in name or "importance" in name for name, _ in student.named_buffers())
    assert [step["kind"] for step in steps] == ["layers", "remove"]
    assert [len(kept) for kept in steps[1]["heads"].values()] == [2, 2]
    assert [len(kept) for kept in steps[1]["neurons"].values()] == [10, 10]
    save(tmp_path / "student", student, steps=steps)
    assert json.loads((tmp_path / "student" / "compression.json").read_text())["steps"] == steps
    assert torch.equal(logits(distill.load(tmp_path / "student")), removed)


def test_a_causal_language_model_keeps_its_tied_head(tmp_path: Path, logits: Make) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = AutoConfig.for_model("qwen2", intermediate_size=20, vocab_size=30, tie_word_embeddings=True, **sizes)
    student = AutoModelForCausalLM.from_config(config)
    pruning = StructuredPruning(heads=0.5, neurons=0.5)
    pruning.prepare(student)
    student.model.layers[0].head_mask[1] = False
    note(student, *pruning.finish(student))
    save(tmp_path / "student", student)
    loaded = distill.load(tmp_path / "student")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight  # type: ignore[union-attr]
    assert torch.equal(logits(loaded), logits(student))


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "activation"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_resumed_run_ends_bit_for_bit_like_the_undisturbed_one(
    tmp_path: Path, criterion: Any, scope: Any, classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    def pruning() -> StructuredPruning:
        return StructuredPruning(0.5, 0.5, 0.25, 1, criterion, scope, begin=2, end=7, every_n_steps=2)

    same = [batches(1)[0]] * 12  # a plain loader does not know where it was
    module = pair(classifier())
    fit(module, pruning(), rows=same)
    begun = pair(classifier())
    fit(begun, pruning(), Stop(5), rows=same).save_checkpoint(tmp_path / "five.ckpt")
    rest = pair(classifier(seed=5))
    fit(rest, pruning(), resume=tmp_path / "five.ckpt", rows=same)
    left, right = module.student.state_dict(), rest.student.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert any(not mask.all() for name, mask in begun.student.named_buffers() if name.endswith("_mask"))


class Stop(Callback):
    """Stops after a step; the run was planned to be longer."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def test_importance_does_not_depend_on_how_a_batch_is_cut(
    classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    # Taylor importance is of the gradient that the optimizer uses, whatever the accumulation.
    def importance(accumulate: int) -> Tensor:
        module = pair(classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        (whole,) = batches(1)
        size = 4 // accumulate
        rows = [
            Batch(
                {name: value[i : i + size] for name, value in whole.inputs.items()}, labels=whole.labels[i : i + size]
            )  # type: ignore[index]
            for i in range(0, 4, size)
        ]
        pruning = StructuredPruning(heads=0.5, criterion="taylor", begin=1, end=1)
        fit(module, pruning, rows=rows, max_steps=1, accumulate_grad_batches=accumulate)
        return torch.cat([layer.head_importance for layer in module.student.bert.encoder.layer])  # type: ignore[union-attr]

    torch.testing.assert_close(importance(1), importance(4), rtol=1e-3, atol=1e-6)


def test_importance_by_activation_is_that_of_the_tokens_of_the_step(
    classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    module = pair(classifier())
    layers: Any = module.student.bert.encoder.layer  # type: ignore[union-attr]
    grabbed: list[Tensor] = []
    columns = []
    for layer in layers:
        reader = layer.attention.output.dense
        reader.register_forward_pre_hook(lambda _module, args: grabbed.append(args[0].detach().double()))
        columns.append(reader.weight.detach().double().square().sum(0))
    fit(module, StructuredPruning(heads=0.5, criterion="activation", begin=1, end=1), Freeze(), max_steps=1)
    tokens = batches(1)[0].tokens[..., None]  # type: ignore[index]
    squares = [(context * tokens).square().sum((0, 1)) for context in grabbed]
    norms = torch.stack([(x * w).view(4, 4).sum(1).sqrt() for x, w in zip(squares, columns, strict=True)])
    found = torch.stack([layer.head_importance for layer in layers])
    torch.testing.assert_close(found.double(), 0.01 * norms / norms.mean(), rtol=1e-5, atol=0)


class Freeze(Callback):
    """Takes the learning rate away, so that weights stay as they were."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.0


def test_the_criterion_chooses_the_heads(classifier: Make, pair: Make, fit: Make) -> None:
    student = classifier()
    with torch.no_grad():
        for layer in student.bert.encoder.layer:
            for module in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                module.weight[8:12] *= 0.1
                module.bias[8:12] *= 0.1
            layer.attention.output.dense.weight[:, 8:12] *= 0.1
    for criterion in ("magnitude", "taylor", "activation"):
        module = pair(copy.deepcopy(student))
        fit(module, StructuredPruning(heads=0.25, criterion=criterion, begin=2, end=4), max_steps=5)  # type: ignore[arg-type]
        masks = [layer.head_mask.tolist() for layer in module.student.bert.encoder.layer]  # type: ignore[union-attr]
        assert masks == [[True, True, False, True]] * 3, criterion


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


def test_named_layers_go_and_no_others(classifier: Make, pair: Make, fit: Make, logits: Make) -> None:
    module = pair(classifier())
    pruning = StructuredPruning(layers=[3, 1], end=2, every_n_steps=1)
    fit(module, pruning, max_steps=3)
    masked = logits(module.student)
    assert pruning.finish(module.student) == [{"kind": "layers", "kept": [2], "of": 3}]
    assert module.student.config.num_hidden_layers == 1  # type: ignore[union-attr]
    assert torch.equal(logits(module.student), masked)


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


def test_it_works_under_bf16_autocast(classifier: Make, pair: Make, fit: Make, logits: Make) -> None:
    module = pair(classifier())
    pruning = StructuredPruning(0.5, 0.5, 0.25, 1, "activation", begin=1, end=2, every_n_steps=1)
    fit(module, pruning, precision="bf16-mixed", max_steps=3)
    masked = logits(module.student)
    pruning.finish(module.student)
    torch.testing.assert_close(logits(module.student), masked, rtol=1e-6, atol=1e-6)


def test_a_shrunken_student_can_be_shrunken_again(
    tmp_path: Path, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    student: Any = classifier()
    for part in (1, 2):
        module = pair(student)
        pruning = StructuredPruning(heads=0.5, neurons=0.5, end=2)
        fit(module, pruning, max_steps=3)
        note(student, *pruning.finish(student))
        save(tmp_path / f"student-{part}", student)
        student = distill.load(tmp_path / f"student-{part}")
        assert torch.equal(logits(student), logits(module.student))
    attention = student.bert.encoder.layer[0].attention
    assert (attention.self.query.out_features, student.bert.encoder.layer[0].output.dense.in_features) == (4, 5)


def test_schedule_is_told_in_advance() -> None:
    pruning = StructuredPruning(heads=0.5, layers=2, begin=0.1, end=0.5, every_n_steps=10)
    # (1 - (1 - 20/40)^3) = 0.875 at step 30 of 10 ... 50.
    assert pruning.timeline([0, 30, 39, 50, 100], 100) == {
        "heads removed": [0.0, 0.4375, 0.4375, 0.5, 0.5],
        "layers removed": [0.0, 1.75, 1.75, 2.0, 2.0],
    }
    assert [pruning.complete(step, 100) for step in (0, 49, 50, 100)] == [False, False, True, True]


def test_a_configuration_can_name_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    arguments = {"heads": 0.5, "layers": [2], "begin": 100, "end": 0.5, "criterion": "taylor"}
    spec = {"callbacks": [{"class_path": "distill.callbacks.StructuredPruning", "init_args": arguments}]}
    made = parser.instantiate(parser.parse_object(spec)).callbacks[0]
    assert (made.plan.layers, made.schedule.begin, made.schedule.end) == ([2], 100, 0.5)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"heads": 1.0}, "heads"),
        ({"neurons": -0.1}, "neurons"),
        ({"hidden": 1.0}, "hidden"),
        ({"heads": float("nan")}, "heads"),
        ({}, ""),
        ({"heads": 0.5, "every_n_steps": 0}, "every_n_steps"),
        ({"heads": 0.5, "begin": 0.6, "end": 0.5}, "begin"),
        ({"heads": 0.5, "end": 1.5}, "end"),
        ({"heads": 0.5, "criterion": "magnitud"}, "criterion"),
        ({"heads": 0.5, "scope": "model"}, "scope"),
        ({"heads": 0.5, "schedule": "cube"}, "schedule"),
    ],
)
def test_values_out_of_range_are_refused_at_once(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        StructuredPruning(**arguments)
    assert caught.value.key == f"callbacks.StructuredPruning.{key}".rstrip(".")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"heads": 0.1}, "heads"),  # of four heads it is none
        ({"layers": 3}, "layers"),
        ({"layers": -1}, "layers"),
        ({"layers": [0]}, "layers"),
        ({"layers": [4]}, "layers"),
        ({"layers": [1, 1]}, "layers"),
        ({"heads": 0.5, "end": 100}, "end"),  # the run has 8 steps
        ({"heads": 0.5, "begin": 0.9, "end": 2}, "begin"),
        ({"heads": 0.5, "schedule": "one_shot", "criterion": "taylor"}, "criterion"),  # before anything is measured
    ],
)
def test_what_does_not_fit_the_student_is_refused_before_training(
    arguments: dict[str, Any], key: str, classifier: Make, pair: Make, fit: Make
) -> None:
    module = pair(classifier())
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    with pytest.raises(UserError) as caught:
        fit(module, StructuredPruning(**arguments))
    assert caught.value.key == f"callbacks.StructuredPruning.{key}"
    assert all(torch.equal(value, module.student.state_dict()[name]) for name, value in before.items())


def test_one_of_each_stays_in_every_layer(classifier: Make, pair: Make, fit: Make) -> None:
    for scope in ("layer", "global"):
        module = pair(classifier())
        fit(module, StructuredPruning(heads=0.99, neurons=0.99, scope=scope, end=1), max_steps=2)  # type: ignore[arg-type]
        for layer in module.student.bert.encoder.layer:  # type: ignore[union-attr]
            assert int(layer.head_mask.sum()) == int(layer.neuron_mask.sum()) == 1


def test_ranks_agree_and_measure_what_one_process_measures(
    tmp_path: Path, classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    student = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings = {"heads": 0.5, "neurons": 0.5, "hidden": 0.25, "layers": 1, "criterion": "activation"}
    settings |= {"begin": 1, "end": 2, "every_n_steps": 1}
    script = str(Path(__file__).with_name("run_structured.py"))
    command = [sys.executable, script, str(tmp_path / "rank"), json.dumps(student), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank.{rank}", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    module = pair(classifier(**student))
    fit(module, StructuredPruning(**settings), rows=batches(4), max_steps=2, accumulate_grad_batches=2)
    alone = module.student.state_dict()
    for name in alone:
        if name.endswith(("_mask", "_importance")):
            torch.testing.assert_close(first[name], alone[name], rtol=1e-3, atol=1e-6)
    assert sum(int((~mask).sum()) for name, mask in alone.items() if name.endswith("head_mask")) == 6


def test_scales_over_groups_of_inputs_that_go_are_refused(classifier: Make, pair: Make, fit: Make) -> None:
    grouped = WeightScheme(bits=4, granularity="group", group_size=4)
    with pytest.raises(UserError, match=r"layer\.0\.output\.dense.*every 4 inputs"):
        fit(pair(classifier()), StructuredPruning(neurons=0.5), QuantizationAwareTraining(weights=grouped))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_all_compressions_go_together(
    tmp_path: Path, family: str, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    callbacks = [
        ShareParameters([[1, 2]]),
        LowRank(rank=3),
        StructuredPruning(heads=0.5, end=4, every_n_steps=1),
        GradualMagnitudePruning(0.5, end=4, include=[r"intermediate|\d\.output|mlp"]),
        QuantizationAwareTraining(begin=2, freeze_observers=6),
    ]
    module = pair(classifier(family))
    fit(module, *callbacks)
    student = module.student
    trained = logits(student)
    for callback in callbacks:
        note(student, *callback.finish(student))
    torch.testing.assert_close(logits(student), trained, rtol=1e-5, atol=1e-5)
    save(tmp_path / "student", student)
    assert torch.equal(logits(distill.load(tmp_path / "student")), logits(student))


def test_trained_scales_of_groups_shrink_with_their_outputs(
    tmp_path: Path, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    grouped = WeightScheme(bits=4, granularity="group", group_size=4, learned=True)
    pruning = StructuredPruning(heads=0.5, neurons=0.5, end=4, every_n_steps=1)
    qat = QuantizationAwareTraining(grouped, overrides={r"output\.dense": WeightScheme()}, begin=2, freeze_observers=6)
    module = pair(classifier())
    fit(module, pruning, qat)
    student = module.student
    trained = logits(student)
    for callback in (pruning, qat):
        note(student, *callback.finish(student))
    torch.testing.assert_close(logits(student), trained, rtol=1e-5, atol=1e-5)
    save(tmp_path / "student", student)
    assert torch.equal(logits(distill.load(tmp_path / "student")), logits(student))


def test_scales_over_groups_of_an_embedding_that_narrows_are_refused(classifier: Make, pair: Make, fit: Make) -> None:
    qat = QuantizationAwareTraining(embeddings=WeightScheme(bits=4, granularity="group", group_size=4))
    with pytest.raises(UserError, match=r"word_embeddings.*every 4 inputs, of which hidden go"):
        fit(pair(classifier()), StructuredPruning(hidden=0.5), qat)


def test_a_checkpoint_is_validated_by_a_trainer_that_never_trained(
    tmp_path: Path, classifier: Make, batches: Make, pair: Make, fit: Make, logits: Make
) -> None:
    def pruning() -> StructuredPruning:
        return StructuredPruning(heads=0.5, hidden=0.3, layers=1, end=4, every_n_steps=1)

    module, fresh = pair(classifier()), pair(classifier(seed=1))
    trainer = fit(module, pruning(), max_steps=6)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[pruning()])
    data = DataLoader(batches(2), batch_size=None)  # type: ignore[arg-type]
    other.validate(fresh, data, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    assert torch.equal(logits(fresh.student), logits(module.student))
