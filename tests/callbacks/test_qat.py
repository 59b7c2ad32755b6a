"""The promises of quantization-aware training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import distill
from distill import artifact
from distill.callbacks import Determinism, QuantizationAwareTraining
from distill.errors import TrainingError, UserError
from distill.losses import CrossEntropy, DistillationLoss, FitNetHint, HintonKL
from distill.module import Distillation
from distill.optim import OptimizerConfig
from distill.quantize.layers import QuantizedLayer, QuantizedLinear, quantized_layers
from distill.quantize.scheme import ActivationScheme, WeightScheme
from distill.signals import Batch
from distill.tasks import CausalLM, TextClassification

DENSE = "bert.encoder.layer.0.intermediate.dense"
LEARNED = WeightScheme(bits=4, learned=True)
RANKS = Path(__file__).parents[1] / "quantize" / "ranks.py"


def bert(seed: int = 0, layers: int = 1, dropout: float = 0.1) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForSequenceClassification(
        BertConfig(vocab_size=40, max_position_embeddings=16, initializer_range=0.2, **sizes, **drops)
    )


def batches(count: int, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for index in range(count):
        ids = torch.randint(1, 40, (size, 6), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        rows = list(range(index * size, (index + 1) * size))
        made.append(Batch(inputs, labels=(ids[:, 0] > 20).long(), tokens=torch.ones_like(ids).bool(), ids=rows))
    return made


def loader(rows: list[Batch]) -> DataLoader[Any]:
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


def module(student: Any = None, losses: list[DistillationLoss] | None = None, **optimizer: Any) -> Distillation:
    return Distillation(
        bert() if student is None else student,
        TextClassification(["no", "yes"]),
        bert(7, layers=2),
        losses or [CrossEntropy(), HintonKL()],
        OptimizerConfig(**({"lr": 1e-2, "warmup": 0} | optimizer)),
    )


def fit(
    folder: Path,
    model: Distillation,
    *callbacks: Callback,
    rows: list[Batch] | None = None,
    resume: Any = None,
    **more: Any,
) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_steps": 10,
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    trainer = Trainer(**(defaults | more), callbacks=[*callbacks, Determinism(1)])
    trainer.fit(model, loader(rows or batches(10)), loader(batches(2)), ckpt_path=resume, weights_only=True)
    return trainer


class Watch(Callback):
    """What ``look`` sees before each step."""

    def __init__(self, look: Callable[[nn.Module], Any]) -> None:
        self.look, self.seen = look, []  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.look(pl_module.student))


def layer(student: nn.Module) -> QuantizedLayer:
    found = student.get_submodule(DENSE)
    assert isinstance(found, QuantizedLayer)
    return found


def predicted(student: nn.Module) -> Tensor:
    student.eval()
    with torch.no_grad():
        logits: Tensor = student(**batches(1)[0].inputs).logits
    return logits


# ---------------------------------------------------------------------- the whole way


def test_what_was_trained_is_what_is_shipped(tmp_path: Path) -> None:
    # Trap 28, to the bit: last validation, finished student, and the folder opened again.
    model, qat = module(), QuantizationAwareTraining()
    before = model.state_dict().keys()
    fit(tmp_path, model, qat)
    trained = predicted(model.student)
    steps = qat.finish(model.student)
    assert torch.equal(predicted(model.student), trained)
    artifact.save(tmp_path / "student", model.student, steps=steps)
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(predicted(loaded), trained)
    assert isinstance(loaded.get_submodule(DENSE), QuantizedLinear)
    names = loaded.state_dict().keys()
    assert {name.removeprefix("student.") for name in before if name.startswith("student.")} <= names
    assert not any("range" in name for name in names)


def test_it_changes_what_the_student_computes(tmp_path: Path) -> None:
    model, qat = module(), QuantizationAwareTraining(WeightScheme(bits=2), begin=0.5)
    fit(tmp_path, model, qat)
    rounded = predicted(model.student)
    for each in quantized_layers(model.student).values():
        each.mode = "float"
    assert not torch.allclose(predicted(model.student), rounded)


def test_it_learns_with_the_rounding_that_it_is_shipped_with(tmp_path: Path) -> None:
    losses, two, rows = {}, WeightScheme(bits=2), batches(5)
    for begin in (1, 99):  # with rounding, and rounded at the end
        model = module(losses=[CrossEntropy()])
        qat = QuantizationAwareTraining(two, embeddings=two, begin=begin, freeze_observers=100)
        fit(tmp_path, model, qat, rows=rows, max_steps=100, max_epochs=-1)
        qat.finish(model.student)
        model.student.eval()
        with torch.no_grad():
            logits = torch.cat([model.student(**batch.inputs).logits for batch in rows])
        labels = torch.cat([batch.labels for batch in rows if batch.labels is not None])
        losses[begin] = float(nn.functional.cross_entropy(logits, labels))
    assert losses[1] < 0.6 * losses[99], losses


# ---------------------------------------------------------------------- the time line


def test_modes_follow_the_step(tmp_path: Path) -> None:
    qat = QuantizationAwareTraining(observe=2, begin=4, freeze_observers=7)
    watch = Watch(lambda s: (layer(s).mode, layer(s).observing))
    fit(tmp_path, module(), qat, watch)
    expected = [("fake" if step >= 4 else "float", 2 <= step < 7) for step in range(10)]
    assert watch.seen == expected
    lines = qat.timeline(range(10), 10)
    assert lines["fake_quant"] == [float(mode == "fake") for mode, _ in expected]
    assert lines["observing"] == [float(observing) for _, observing in expected]
    assert [qat.complete(step, 10) for step in (3, 4, 10)] == [False, True, True]


def test_moments_may_be_fractions(tmp_path: Path) -> None:
    watch = Watch(lambda s: (layer(s).mode, layer(s).observing))
    fit(tmp_path, module(), QuantizationAwareTraining(observe=0.2, begin=0.4, freeze_observers=0.7), watch)
    assert watch.seen == [("fake" if step >= 4 else "float", 2 <= step < 7) for step in range(10)]


def test_until_it_begins_the_student_is_trained_as_without_it(tmp_path: Path) -> None:
    alone, with_it = module(), module()
    fit(tmp_path, alone)
    fit(tmp_path, with_it, QuantizationAwareTraining(LEARNED, begin=10, freeze_observers=10))
    for name, value in alone.student.state_dict().items():
        assert torch.equal(with_it.student.state_dict()[name], value), name


def test_ranges_move_in_training_only_and_stand_still_once_frozen(tmp_path: Path) -> None:
    # Trap 27; validation reads other samples after every step.
    watch = Watch(lambda s: layer(s).input_range.clone())
    qat = QuantizationAwareTraining(observe=1, begin=2, freeze_observers=6)
    fit(tmp_path, module(), qat, watch, limit_val_batches=2, val_check_interval=1)
    quiet = Watch(lambda s: layer(s).input_range.clone())
    fit(tmp_path, module(), QuantizationAwareTraining(observe=1, begin=2, freeze_observers=6), quiet)
    assert all(torch.equal(a, b) for a, b in zip(watch.seen, quiet.seen, strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(watch.seen, watch.seen[1:], strict=False)]
    assert moved == [False] + [True] * 5 + [False] * 3


def test_ranges_are_of_the_batch_however_it_is_divided(tmp_path: Path) -> None:
    whole, parts = module(bert(dropout=0.0)), module(bert(dropout=0.0))
    small = [
        Batch({k: v[i : i + 4] for k, v in b.inputs.items()}, labels=b.labels[i : i + 4], ids=b.ids[i : i + 4])
        for b in batches(10)
        for i in (0, 4)
    ]  # type: ignore[index]
    settings: dict[str, Any] = {"begin": 4, "freeze_observers": 9}
    watch = [Watch(lambda s: (layer(s).mode, layer(s).input_range.clone())) for _ in range(2)]
    fit(tmp_path, whole, QuantizationAwareTraining(**settings), watch[0], max_steps=6)
    fit(
        tmp_path,
        parts,
        QuantizationAwareTraining(**settings),
        watch[1],
        rows=small,
        max_steps=6,
        accumulate_grad_batches=2,
    )
    for (mode, one), (other_mode, two) in zip(watch[0].seen, watch[1].seen[::2], strict=True):
        assert mode == other_mode
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("begin", [0, 4])
def test_the_learning_rate_is_scaled_while_rounding_and_logged_as_it_is_applied(tmp_path: Path, begin: int) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.applied: list[list[float]] = []
            self.logged: list[float] = []

        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            def look(optimizer: Any, *_: Any) -> None:
                self.applied.append([group["lr"] for group in optimizer.param_groups])

            trainer.optimizers[0].register_step_pre_hook(look)

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == len(self.logged) + 1:  # the next micro-batch is logged for the same step
                self.logged.append(float(trainer.callback_metrics["train/learning_rate"]))

    plain, scaled = Rates(), Rates()
    for factor, rates in ((1.0, plain), (0.5, scaled)):
        qat = QuantizationAwareTraining(observe=0, begin=begin, lr_factor=factor)
        fit(tmp_path, module(warmup=3), rates, qat, rows=batches(20), accumulate_grad_batches=2)
        assert rates.logged == pytest.approx([first for first, *_ in rates.applied])
    ratios = [
        b / a
        for before, after in zip(plain.applied, scaled.applied, strict=True)
        for a, b in zip(before, after, strict=True)
    ]
    groups = len(plain.applied[0])
    assert ratios == pytest.approx([1.0] * groups * begin + [0.5] * groups * (10 - begin))


def test_a_learning_rate_that_is_not_scheduled_is_not_silently_left_as_it_was(tmp_path: Path) -> None:
    class Unscheduled(Distillation):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers()["optimizer"]  # type: ignore[call-overload, index]

    model = Unscheduled(bert(), TextClassification(["no", "yes"]), bert(7, layers=2), [HintonKL()])
    with pytest.raises(UserError, match=r"lr_factor = 0\.5: multiplies what a LambdaLR gives"):
        fit(tmp_path, model, QuantizationAwareTraining(lr_factor=0.5))


# ---------------------------------------------------------------------- few bits and soft targets


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "distill.callbacks.qat"]


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"weights": WeightScheme(bits=3)}, 3),
        ({"weights": WeightScheme(bits=2), "embeddings": None}, 2),
        ({"overrides": {"intermediate": 3}}, 3),
    ],
    ids=["3 bits", "2 bits", "3 bits in one layer"],
)
def test_a_high_temperature_with_few_bits_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], bits: int
) -> None:
    # Trap 30.
    losses = [CrossEntropy(), HintonKL(temperature=5.0), HintonKL(temperature=1.0, name="mild")]
    fit(tmp_path, module(losses=losses), QuantizationAwareTraining(**settings), max_steps=2)
    expected = f"model.losses.1.temperature = 5: can ruin the training of weights of {bits} bits; set it to 1"
    assert warnings_of(caplog) == [expected]


@pytest.mark.parametrize(("bits", "temperature"), [(3, 1.0), (3, 2.0), (4, 5.0), (8, 5.0)])
def test_nothing_is_said_of_a_low_temperature_or_of_more_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int, temperature: float
) -> None:
    model = module(losses=[CrossEntropy(), HintonKL(temperature)])
    fit(tmp_path, model, QuantizationAwareTraining(WeightScheme(bits=bits)), max_steps=2)
    assert not warnings_of(caplog)


def test_trained_scales_start_from_the_weights_at_the_beginning_of_rounding(tmp_path: Path) -> None:
    def look(student: nn.Module) -> tuple[Tensor, Tensor]:
        weight = layer(student).weight.detach()
        return layer(student).weight_scale.detach().clone(), 2 * weight.abs().mean(1) / 7**0.5

    watch = Watch(look)
    fit(tmp_path, module(), QuantizationAwareTraining(LEARNED, begin=4), watch)
    untouched = [torch.equal(scale, watch.seen[0][0]) for scale, _ in watch.seen]
    assert untouched == [True] * 4 + [False] * 6
    torch.testing.assert_close(*watch.seen[4])
    assert not torch.allclose(*watch.seen[5]), "from then on they are trained"


# ---------------------------------------------------------------------- resume


@pytest.mark.parametrize("weights", [WeightScheme(), LEARNED], ids=["int8", "learned"])
@pytest.mark.parametrize("after", [2, 4, 7])
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, after: int, weights: WeightScheme
) -> None:
    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == after:
                trainer.save_checkpoint(tmp_path / "c.ckpt")

    def run(*more: Callback, resume: Any = None) -> Distillation:
        model = module()
        same = batches(1) * 10  # every batch the same, as a plain loader begins anew
        qat = QuantizationAwareTraining(weights, observe=1, begin=4, freeze_observers=8, lr_factor=0.5)
        fit(tmp_path, model, qat, *more, rows=same, resume=resume)
        qat.finish(model.student)
        return model

    whole, resumed = run(Keep()), run(resume=tmp_path / "c.ckpt")
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value), name


def test_a_module_may_be_fitted_twice(tmp_path: Path) -> None:
    model, qat = module(), QuantizationAwareTraining()
    fit(tmp_path, model, qat, max_steps=3)
    fit(tmp_path, model, qat, max_steps=3)
    assert qat.finish(model.student)[0]["modules"]
    with pytest.raises(UserError, match="is quantised already"):
        fit(tmp_path, model, QuantizationAwareTraining())


# ---------------------------------------------------------------------- together with the rest


@pytest.mark.parametrize("weights", [WeightScheme(bits=4), LEARNED, WeightScheme(symmetric=False)], ids=str)
def test_pruned_weights_stay_exactly_zero(tmp_path: Path, weights: WeightScheme) -> None:
    # Trap 25: what the layer multiplies with is the rounded masked weight.
    mask = torch.rand(32, 16, generator=torch.Generator().manual_seed(0)) < 0.3

    class Mask(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            def apply(*_: Any) -> None:
                with torch.no_grad():
                    layer(pl_module.student).weight.mul_(mask)

            apply()
            trainer.optimizers[0].register_step_post_hook(apply)

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            assert (layer(pl_module.student).quantized_weight()[~mask] == 0).all()

    model, qat = module(), QuantizationAwareTraining(weights)
    fit(tmp_path, model, Mask(), qat)
    qat.finish(model.student)
    finished = layer(model.student)
    assert (finished.weight[~mask] == 0).all()
    assert (finished.weight[mask] != 0).any()
    zero = finished.weight_zero_point
    assert (finished.integers()[~mask] == (0 if zero is None else zero[:, None].expand(32, 16)[~mask])).all()


def test_hints_read_the_swapped_layers(tmp_path: Path) -> None:
    taps = {DENSE: DENSE}
    losses: list[DistillationLoss] = [FitNetHint(), FitNetHint(taps=taps, name="tap")]
    trainer = fit(tmp_path, module(losses=losses), QuantizationAwareTraining(begin=0))
    assert 0 < trainer.callback_metrics["train/fit_net_hint"] < 10
    assert 0 < trainer.callback_metrics["train/tap"] < 10


def test_the_teacher_is_untouched_byte_for_byte(tmp_path: Path) -> None:
    model, qat = module(), QuantizationAwareTraining()
    assert model.teacher is not None
    teacher = model.teacher.models[0]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    kinds = [type(m) for m in teacher.modules()]
    fit(tmp_path, model, qat)
    qat.finish(model.student)
    after = teacher.state_dict()
    assert after.keys() == before.keys()
    assert all(
        torch.equal(after[name].view(torch.uint8), value.view(torch.uint8))
        for name, value in before.items()
        if value.dim()
    )
    assert [type(m) for m in teacher.modules()] == kinds


def test_bfloat16_autocast_trains_with_scales_in_float32(tmp_path: Path) -> None:
    model, qat = module(), QuantizationAwareTraining(LEARNED, embeddings=LEARNED)
    trainer = fit(tmp_path, model, qat, precision="bf16-mixed", max_steps=4)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert layer(model.student).input_range.dtype is torch.float32
    qat.finish(model.student)
    assert layer(model.student).weight_scale.dtype is torch.float32


def test_a_tied_language_model_goes_the_whole_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    student = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0))
    rows = [
        Batch({"input_ids": b.inputs["input_ids"]}, labels=b.inputs["input_ids"].roll(-1, 1), ids=b.ids)
        for b in batches(10)
    ]
    model = Distillation(student, CausalLM(), None, [CrossEntropy()], OptimizerConfig(lr=1e-2))
    qat = QuantizationAwareTraining(WeightScheme(bits=4), embeddings=WeightScheme(bits=4))
    fit(tmp_path, model, qat, rows=rows)
    student.eval()
    ids = rows[0].inputs["input_ids"]
    with torch.no_grad():
        trained = student(ids).logits
        artifact.save(tmp_path / "student", student, steps=qat.finish(student))
        assert torch.equal(student(ids).logits, trained)
        assert torch.equal(distill.load(tmp_path / "student")(ids).logits, trained)
    assert student.lm_head.weight is student.transformer.wte.weight
    assert student.lm_head.integers().abs().max() <= 7


# ---------------------------------------------------------------------- what is said


def test_validation_is_of_the_rounded_student_and_beside_it_of_the_float_one(tmp_path: Path) -> None:
    model = module()
    qat = QuantizationAwareTraining(WeightScheme(bits=2), activations=ActivationScheme(bits=2), begin=0.5)
    trainer = fit(tmp_path, model, qat, limit_val_batches=2, val_check_interval=10)
    metrics, student = trainer.callback_metrics, model.student.eval()
    rows = batches(2)
    labels = torch.cat([b.labels for b in rows])  # type: ignore[misc]

    def accuracy() -> float:
        with torch.no_grad():
            logits = torch.cat([student(**b.inputs).logits for b in rows])
        return float((logits.argmax(-1) == labels).float().mean())

    assert float(metrics["val/accuracy"]) == pytest.approx(accuracy())
    for each in quantized_layers(student).values():
        each.mode = "float"
    assert float(metrics["val/float_accuracy"]) == pytest.approx(accuracy())
    off = fit(tmp_path, module(), QuantizationAwareTraining(float_validation=False), limit_val_batches=1)
    assert not any(name.startswith("val/float") for name in off.callback_metrics)


def test_validation_without_rounding_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for told in (True, False):
        model = module()
        fit(
            tmp_path, model, QuantizationAwareTraining(float_validation=told), limit_val_batches=2, val_check_interval=3
        )
        ends.append(model.student.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_state_ranges_and_scales_are_logged(tmp_path: Path) -> None:
    trainer = fit(tmp_path, module(), QuantizationAwareTraining())
    logged = trainer.logged_metrics
    assert logged["qat/fake_quant"] == 1
    assert logged["qat/observing"] == 0
    assert logged["qat/input_range_max"] >= logged["qat/input_range_mean"] > 0
    assert logged["qat/weight_scale_mean"] > 0
    assert not any(DENSE in name for name in logged)
    logged = fit(tmp_path, module(), QuantizationAwareTraining(log_layers=True), max_steps=2).logged_metrics
    assert logged[f"qat/input_low/{DENSE}"] < logged[f"qat/input_high/{DENSE}"]
    assert logged[f"qat/weight_scale/{DENSE}"] > 0


# ---------------------------------------------------------------------- over two ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    out = tmp_path_factory.mktemp("ranks") / "state"
    command = [sys.executable, str(RANKS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(2)]


def test_ranges_and_scales_agree_over_ranks(ranks: list[dict[str, Tensor]]) -> None:
    first, second = ranks
    assert first.keys() == second.keys()
    assert any(name.endswith("input_range") for name in first)
    assert any(name.endswith("weight_scale") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_range_holds_the_inputs_of_all_ranks(ranks: list[dict[str, Tensor]]) -> None:
    # Rank r reads (r + 1) times the numbers -1 to 1; the first layer's input is what it reads.
    torch.testing.assert_close(ranks[0]["0.input_range"], torch.tensor([-2.0, 2.0]))


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"begin": 0.95}, r"QuantizationAwareTraining\.begin = 0\.95: must not lie after freeze_observers"),
        ({"begin": 100, "observe": 0, "freeze_observers": 50}, "begin = 100: must not lie after freeze"),
        ({"observe": 0.5}, r"observe = 0\.5: must not lie after begin"),
        ({"observe": 0.0, "begin": 0.0, "freeze_observers": 0.0}, "freeze_observers = 0.0: must lie after observe"),
        ({"begin": 1.5}, r"begin = 1\.5: must be a step"),
        ({"observe": -1}, "observe = -1: must be a step"),
        ({"lr_factor": 0.0}, r"lr_factor = 0\.0"),
        ({"overrides": {"query": 5}}, r"QuantizationAwareTraining\.overrides\.query = 5: must be one of"),
        ({"store": "int8"}, "store = 'int8'"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QuantizationAwareTraining(**settings)


def test_moments_of_two_kinds_are_compared_once_the_length_of_the_run_is_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"begin = 20: must not lie after freeze_observers \(0\.9\)"):
        fit(tmp_path, module(), QuantizationAwareTraining(begin=20))


def test_without_static_inputs_observers_have_no_moments() -> None:
    QuantizationAwareTraining(activations=None, begin=0.95)
    QuantizationAwareTraining(activations=ActivationScheme(kind="dynamic"), begin=0.95)


def test_a_pattern_that_matches_nothing_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks\.QuantizationAwareTraining\.overrides\.intermedate.*did you mean"):
        fit(tmp_path, module(), QuantizationAwareTraining(overrides={"intermedate": 4}))


def test_a_run_that_ended_before_anything_was_observed_ships_nothing(tmp_path: Path) -> None:
    model, qat = module(), QuantizationAwareTraining(observe=5, begin=6, freeze_observers=10)
    qat.prepare(model.student)
    with pytest.raises(TrainingError, match="before any input's range was observed"):
        qat.finish(model.student)


# ---------------------------------------------------------------------- YAML


def test_yaml_says_all_of_it_and_what_is_resolved_says_the_same() -> None:
    text = """
    - class_path: QuantizationAwareTraining
      init_args:
        weights: {bits: 4, granularity: group, group_size: 32}
        activations: {kind: dynamic}
        embeddings: null
        overrides: {query: 8, key: null, dense: {bits: 2, learned: true}}
        begin: 100
    - class_path: QuantizationAwareTraining
      init_args: {activations: null}
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback], sub_configs=False)
    values = parser.parse_object({"callbacks": yaml.safe_load(text)})
    again = parser.parse_object(yaml.safe_load(parser.dump(values, skip_unset=False)))
    for parsed in (values, again):
        first, second = parser.instantiate(parsed).callbacks
        assert first.weights == WeightScheme(bits=4, granularity="group", group_size=32)
        assert first.activations == ActivationScheme(kind="dynamic")
        assert first.embeddings is None
        assert first.overrides == {"query": 8, "key": None, "dense": WeightScheme(bits=2, learned=True)}
        assert first.begin == 100
        assert second.activations is None
        assert second.weights == second.embeddings == WeightScheme()


@pytest.mark.parametrize(
    ("moments", "key"),
    [
        ({"begin": 11, "freeze_observers": 20}, "begin"),
        ({"begin": 11, "activations": None}, "begin"),
        ({"observe": 10, "begin": 10, "freeze_observers": 20}, "observe"),
        ({"observe": 1.0, "begin": 10, "freeze_observers": 20}, "observe"),
    ],
)
def test_moments_after_the_end_of_the_run_are_refused_before_the_first_step(
    tmp_path: Path, moments: dict[str, Any], key: str
) -> None:
    watch = Watch(lambda student: None)
    with pytest.raises(UserError, match="the run ends after 10 steps") as error:
        fit(tmp_path, module(), QuantizationAwareTraining(**moments), watch)
    assert error.value.key == f"callbacks.QuantizationAwareTraining.{key}"
    assert not watch.seen


@pytest.mark.parametrize("begin", [4, 10])
def test_a_checkpoint_is_validated_as_it_was_by_a_trainer_that_never_trained(tmp_path: Path, begin: int) -> None:
    def qat() -> QuantizationAwareTraining:
        two = WeightScheme(bits=2)
        return QuantizationAwareTraining(two, ActivationScheme(bits=2), two, begin=begin, freeze_observers=10)

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 9:
                trainer.save_checkpoint(tmp_path / "nine.ckpt")
                expected.append(predicted(pl_module.student))
                pl_module.student.train()

    expected: list[Tensor] = []
    fit(tmp_path, module(), qat(), Keep())
    fresh = module(bert(3))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[qat()])
    trainer.validate(fresh, loader(batches(1)), ckpt_path=tmp_path / "nine.ckpt", verbose=False, weights_only=True)
    assert layer(fresh.student).mode == ("fake" if begin == 4 else "float")
    assert torch.equal(predicted(fresh.student), expected[0])


def test_validating_a_finished_student_leaves_it_finished(tmp_path: Path) -> None:
    model, qat = module(), QuantizationAwareTraining()
    trainer = fit(tmp_path, model, qat)
    qat.finish(model.student)
    shipped = predicted(model.student)
    trainer.validate(model, loader(batches(1)), verbose=False)
    assert layer(model.student).mode == "frozen"
    assert torch.equal(predicted(model.student), shipped)


@pytest.mark.parametrize("weights", [WeightScheme(), WeightScheme(symmetric=False), LEARNED])
def test_a_student_in_bfloat16_has_its_ranges_and_scales_in_float32(tmp_path: Path, weights: WeightScheme) -> None:
    model, qat = module(), QuantizationAwareTraining(weights, begin=4)
    fit(tmp_path, model, qat, precision="bf16-true")
    dense = layer(model.student)
    assert dense.weight.dtype is torch.bfloat16
    assert dense.input_range.dtype is torch.float32
    assert dense.input_range.isfinite().all()
    trained = predicted(model.student)
    qat.finish(model.student)
    assert dense.weight_scale.dtype is torch.float32
    values = dense.integers().float()
    if dense.weight_zero_point is not None:
        values = values - dense.weight_zero_point[:, None]
    assert torch.equal((values * dense.weight_scale[:, None]).bfloat16(), dense.weight)
    assert torch.equal(predicted(model.student), trained)
