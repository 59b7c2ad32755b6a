"""The promises of pruning while training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from distill.callbacks import Determinism, ExponentialMovingAverage, GradualMagnitudePruning
from distill.compression.pruning import Criterion, FunctionCriterion
from distill.compression.pruning.masks import Masks
from distill.config.class_paths import only_allowed_imports
from distill.config.files import parse_yaml
from distill.core import record
from distill.core.utils.errors import UserError
from distill.losses import L1, CrossEntropy, HintonKL
from distill.models import saved_student
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig
from distill.workflows.job.defaults import with_defaults
from distill.workflows.job.sections import Sections

ADAMW = OptimizerConfig(lr=0.05, weight_decay=0.1, warmup=0)
SGD = OptimizerConfig(name="sgd", lr=0.05, weight_decay=0.1, momentum=0.9, warmup=0)


class Net(nn.Module):
    """A convolution, two linear maps, and a head, with all that is not pruned between them."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.one = nn.Linear(16, width)
        self.dropout = nn.Dropout(0.2)
        self.two = nn.Linear(width, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.norm(self.conv(input[:, None]).flatten(1))
        return self.head(self.two(self.dropout(self.one(x).relu())).relu())


PRUNED = {"conv": 12, "one": 128, "two": 96}
"""Layer -> its weights."""


def rows(count: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, generator=generator), torch.tensor(i % 3)) for i in range(count)]


def distillation(optimizer: OptimizerConfig = ADAMW, student: nn.Module | None = None, **more: Any) -> Distillation:
    torch.manual_seed(0)
    losses = [CrossEntropy(weight=0.5), HintonKL(temperature=2.0)]
    return Distillation(student or Net(), Plain(), Net(12), **({"losses": losses, "optimizer": optimizer} | more))


def fit(module: Distillation, *callbacks: Callback, resume: Path | None = None, **more: Any) -> Trainer:
    arguments: dict[str, Any] = {"max_steps": 10, "gradient_clip_val": 0.5, "log_every_n_steps": 1} | more
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Determinism(1), *callbacks],
        **arguments,
    )
    # Every batch is the same, so their order is no matter.
    loader: Any = DataLoader(rows(4) * 20, batch_size=4)
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    return trainer


def zeros(student: nn.Module) -> dict[str, int]:
    return {name: int((student.get_submodule(name).weight == 0).sum()) for name in PRUNED}


class Watch(Callback):
    """After every optimizer step: zeros by layer, and whether all that is masked is zero; masks by step."""

    def __init__(self) -> None:
        self.zeros: dict[int, dict[str, int]] = {}
        self.exact: list[bool] = []
        self.masks: dict[int, list[Tensor]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        student = pl_module.student

        def look(*_: Any) -> None:
            pairs = [(m.weight, m.weight_mask) for m in student.modules() if hasattr(m, "weight_mask")]
            self.exact.append(all(not w[~mask].any() for w, mask in pairs))
            # +0.0 and not -0.0, which would be another byte pattern on the disk
            self.exact.append(all(not torch.signbit(w[~mask]).any() for w, mask in pairs))

        trainer.optimizers[0].register_step_post_hook(look)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.zeros[trainer.global_step] = zeros(pl_module.student)
        modules = [m for m in pl_module.student.modules() if hasattr(m, "weight_mask")]
        self.masks[trainer.global_step] = [m.weight_mask.clone() for m in modules]


def cubic(step: int, total: int, begin: float, end: float, final: float) -> float:
    part = min(1.0, max(0.0, (step - begin * total) / (end * total - begin * total)))
    return final - final * (1 - part) ** 3


@pytest.mark.parametrize("optimizer", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_sparsity_after_every_step_is_exactly_that_of_the_schedule(
    optimizer: OptimizerConfig, accumulate: int, precision: Any
) -> None:
    # Traps 18 and 20: momentum, weight decay, clipping, accumulation and an average are on.
    watch = Watch()
    pruning = GradualMagnitudePruning(0.75, end=0.8, every_n_steps=1)
    fit(
        distillation(optimizer),
        pruning,
        ExponentialMovingAverage(0.9),
        watch,
        accumulate_grad_batches=accumulate,
        precision=precision,
    )
    found = {k: sum(counts.values()) for k, counts in watch.zeros.items() if k}
    assert found == {k: int(cubic(k, 10, 0.0, 0.8, 0.75) * 236 + 0.5) for k in range(1, 11)}
    assert all(watch.exact)
    assert len(watch.exact) == 20


class Drift(torch.optim.SGD):
    """Moves every weight at every step, whatever its gradient, as whitening or spectral optimizers do."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(0.01)
        return loss


class Drifting(Distillation):
    def configure_optimizers(self) -> Any:
        super().configure_optimizers()
        return Drift(self.student.parameters(), lr=0.01)


def test_pruned_weights_are_zero_under_an_optimizer_that_moves_everything() -> None:
    watch = Watch()
    torch.manual_seed(0)
    fit(Drifting(Net(), Plain(), None, [CrossEntropy()]), GradualMagnitudePruning(0.5, end=4, every_n_steps=1), watch)
    assert all(watch.exact)
    assert sum(watch.zeros[10].values()) == 118


def test_moments_are_zero_under_the_mask() -> None:
    module = distillation()
    trainer = fit(module, GradualMagnitudePruning(0.5, end=9, every_n_steps=3))
    for name in PRUNED:
        layer: Any = module.student.get_submodule(name)
        state = trainer.optimizers[0].state[layer.weight]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not state[moment][~layer.weight_mask].any()
            assert state[moment][layer.weight_mask].any()


def test_what_is_clipped_is_the_gradient_under_the_mask() -> None:
    norms: list[tuple[Tensor, Tensor]] = []

    class Norm(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            def keep(*_: Any) -> None:
                grads = [p.grad for p in pl_module.student.parameters() if p.grad is not None]
                norms.append((torch.stack([g.norm() for g in grads]).norm(), pl_module.student.one.weight.grad.clone()))

            trainer.optimizers[0].register_step_post_hook(keep)

    pruning = GradualMagnitudePruning(0.9, schedule="one_shot", scope="layer")
    fit(distillation(), pruning, Norm(), gradient_clip_val=1e-3, max_steps=3)
    # Were it clipped first and masked then, it would be shorter than the limit.
    for norm, gradient in norms:
        assert norm == pytest.approx(1e-3, rel=1e-3)
        assert int((gradient == 0).sum()) >= 115


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("layer", {"conv": 6, "one": 64, "two": 48}),
        (["one|conv"], {"conv": None, "one": None, "two": 48}),
        ("global", {"conv": None, "one": None, "two": None}),
    ],
)
def test_each_scope_reaches_the_sparsity_by_itself(scope: Any, expected: dict[str, int | None]) -> None:
    module = distillation()
    fit(module, GradualMagnitudePruning(0.5, end=9, every_n_steps=4, scope=scope))
    found = zeros(module.student)
    assert sum(found.values()) == 118
    assert all(found[name] == count for name, count in expected.items() if count is not None)
    if scope == "global":
        weights: Any = [module.student.get_submodule(name) for name in PRUNED]
        kept = min(w.weight[w.weight_mask].abs().min() for w in weights)
        assert kept > 0


def test_sparsity_is_of_the_original_number_of_weights() -> None:
    # Trap 19: two updates to one half are one half, not three quarters.
    module = distillation()
    fit(module, GradualMagnitudePruning(schedule={2: 0.5, 5: 0.5}))
    assert sum(zeros(module.student).values()) == 118


def test_overrides_and_caps_are_kept_per_layer() -> None:
    module = distillation()
    overrides = {"one": 0.25, "conv": 0.0}
    fit(module, GradualMagnitudePruning(0.5, end=9, every_n_steps=4, overrides=overrides))
    assert zeros(module.student) == {"conv": 0, "one": 32, "two": 48}
    assert not hasattr(module.student.conv, "weight_mask")
    capped = distillation()
    capped.student.two.weight.data[0, 0] = 1e3  # type: ignore[union-attr, operator]
    fit(capped, GradualMagnitudePruning(0.5, schedule="one_shot", max_layer_sparsity=0.75), max_steps=1)
    assert zeros(capped.student)["two"] == 72
    assert sum(zeros(capped.student).values()) == 118


def test_embeddings_norms_biases_and_the_head_are_left_alone_and_tied_weights_pruned_once() -> None:
    # Trap 22
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=30)
    model = BertForSequenceClassification(config)
    first, second = model.bert.encoder.layer
    second.intermediate.dense.weight = first.intermediate.dense.weight
    pruning = GradualMagnitudePruning(0.5)
    pruning.prepare(model)
    masked = {name.removesuffix(".weight_mask") for name, _ in model.named_buffers() if name.endswith("weight_mask")}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    outside = {"classifier", "bert.pooler.dense", "bert.encoder.layer.1.intermediate.dense"}
    assert masked - {"bert.pooler.dense"} == linear - outside
    assert all(buffer.dtype is torch.bool for name, buffer in model.named_buffers() if name.endswith("weight_mask"))
    [step] = pruning.finish(model)
    assert set(step["layers"]) == masked
    wide = GradualMagnitudePruning(0.5, embeddings=True, include=["embeddings"])
    wide.prepare(model)
    names = set(wide.finish(model)[0]["layers"])
    assert "bert.embeddings.word_embeddings" in names
    assert all("LayerNorm" not in name for name in names)


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "wanda", "random", "own"])
@pytest.mark.parametrize("regrow", [0.0, 0.3])
@pytest.mark.parametrize("after", [3, 5, 8])
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, criterion: Any, regrow: float, after: int
) -> None:
    # Trap 21. Masks, scores, average and all.
    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == after:
                trainer.save_checkpoint(tmp_path / "c.ckpt")

    def run(*more: Callback, resume: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        module = distillation()
        given = FunctionCriterion(lambda weight, module: weight**2) if criterion == "own" else criterion
        pruning = GradualMagnitudePruning(
            0.7,
            begin=1,
            end=7,
            every_n_steps=2,
            criterion=given,
            regrow=regrow,
            freeze=9 if regrow else None,
            scope=["one"],
        )
        average = ExponentialMovingAverage(0.9)
        fit(module, pruning, average, *more, resume=resume)
        return module.student.state_dict(), average.state_dict()

    whole = run(Keep())
    resumed = run(resume=tmp_path / "c.ckpt")
    for one, other in zip(whole, resumed, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=0, msg=name)
    assert sum(int((~v).sum()) for k, v in whole[0].items() if k.endswith("weight_mask")) == 90 + 76


def test_a_pruned_weight_stays_pruned_and_with_regrowth_masks_change_until_they_are_frozen() -> None:
    def masks(**more: Any) -> dict[int, list[Tensor]]:
        watch = Watch()
        fit(distillation(), GradualMagnitudePruning(0.6, end=4, every_n_steps=1, **more), watch, max_steps=12)
        return watch.masks

    plain = masks()
    for step in range(2, 13):
        assert all(not (new & ~old).any() for new, old in zip(plain[step], plain[step - 1], strict=True))
    grown = masks(regrow=0.5, freeze=10)
    came_back = [
        sum(int((new & ~old).sum()) for new, old in zip(grown[step], grown[step - 1], strict=True))
        for step in range(2, 13)
    ]
    assert all(came_back[:7])
    assert came_back[-2:] == [0, 0]
    for step in range(4, 13):
        assert sum(int((~mask).sum()) for mask in grown[step]) == 142  # 0.6 of 236, 141.6


def test_regrowth_takes_the_largest_gradients() -> None:
    seen: dict[str, Tensor] = {}

    class Before(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            two = pl_module.student.two
            if trainer.global_step == 1:
                seen.update(gradient=two.weight.grad.abs().clone(), before=two.weight_mask.clone())

    class After(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                seen.update(after=pl_module.student.two.weight_mask.clone())

    pruning = GradualMagnitudePruning(0.5, include=["two"], schedule="one_shot", regrow=0.5, freeze=4, every_n_steps=2)
    fit(distillation(), Before(), pruning, After(), max_steps=5)
    back = seen["after"] & ~seen["before"]
    still = ~seen["after"] & ~seen["before"]
    assert int((~seen["after"]).sum()) == 48
    assert int(back.sum()) > 0
    # Half a cosine at half of the way leaves a quarter of the 48 kept: 12 are exchanged.
    assert int(back.sum()) <= 12
    assert seen["gradient"][back].min() >= seen["gradient"][still].max()


def test_one_run_with_distillation_pruning_l1_and_average_saves_real_zeros(tmp_path: Path) -> None:
    student = Net()
    plain = set(student.state_dict())
    losses = [CrossEntropy(weight=0.5), HintonKL(temperature=2.0), L1(weight=1e-4)]
    module = distillation(student=student, losses=losses)
    assert module.teacher is not None
    teacher = {name: value.clone() for name, value in module.teacher.models[0].state_dict().items()}
    pruning, average = (
        GradualMagnitudePruning(0.8, criterion="movement", begin=1, end=0.7),
        ExponentialMovingAverage(0.9),
    )
    trainer = fit(module, pruning, average)
    x = torch.randn(5, 4)
    average.finish(student)
    steps = pruning.finish(student)
    assert set(student.state_dict()) == plain
    assert sum(zeros(student).values()) == 189
    [step] = steps
    assert step["kind"] == "sparsity"
    assert step["target"] == 0.8
    assert step["actual"] == pytest.approx(189 / 236)
    assert {name: counts["weights"] for name, counts in step["layers"].items()} == PRUNED
    assert {name: counts["zeros"] for name, counts in step["layers"].items()} == zeros(student)
    json.dumps(steps)
    record.note(student, *steps)
    saved_student.save(student, tmp_path / "student")
    loaded = saved_student.load(tmp_path / "student", Net())
    assert torch.equal(loaded(x), student.eval()(x))
    assert record.steps_of(loaded) == steps
    now = module.teacher.models[0].state_dict()
    assert all(torch.equal(value, now[name]) for name, value in teacher.items())
    assert trainer.global_step == 10


def test_it_is_complete_when_the_schedule_has_ended_and_tells_its_course() -> None:
    pruning = GradualMagnitudePruning(0.8, begin=0.25, end=0.5, every_n_steps=1)
    assert [pruning.target_reached(step, 8) for step in range(9)] == [False] * 4 + [True] * 5
    assert pruning.timeline([0, 2, 3, 4, 8], 8)["sparsity"] == pytest.approx([0, 0, 0.7, 0.8, 0.8])


def test_target_and_sparsity_are_logged_whole_and_by_layer_and_what_changed() -> None:
    logged: dict[int, dict[str, float]] = {}

    class Logged(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("prune/")}
            logged[trainer.global_step] = values

    module = distillation()
    fit(module, GradualMagnitudePruning(0.5, begin=2, end=6, every_n_steps=2, schedule="linear"), Logged())
    assert not logged[1]
    assert logged[4]["prune/target_sparsity"] == 0.25
    assert logged[4]["prune/sparsity"] == pytest.approx(59 / 236)
    assert logged[4]["prune/churn"] == pytest.approx(59 / 236)
    assert logged[10]["prune/sparsity"] == pytest.approx(0.5)
    for name, weights in PRUNED.items():
        assert logged[10][f"prune/sparsity/{name}"] == pytest.approx(zeros(module.student)[name] / weights)


def test_another_run_of_the_same_module_begins_with_nothing_pruned() -> None:
    module, pruning = distillation(), GradualMagnitudePruning(0.5, begin=3, end=6, every_n_steps=1)
    fit(module, pruning)
    pruning.finish(module.student)
    assert not [name for name, _ in module.student.named_buffers()]
    watch = Watch()
    fit(module, pruning, watch)
    assert all(mask.all() for mask in watch.masks[2])
    assert sum(int((~mask).sum()) for mask in watch.masks[10]) == 118


def test_masks_agree_with_a_computation_in_numpy() -> None:
    # The whole of a one-shot pruning, from the weights that it saw.
    module = distillation(SGD)
    layers = [module.student.get_submodule(n).weight.detach().numpy().ravel() for n in PRUNED]
    before = np.concatenate([weights / np.sqrt(np.square(weights).mean()) for weights in layers])
    watch = Watch()
    fit(module, GradualMagnitudePruning(0.37, schedule="one_shot"), watch, max_steps=1)
    expected = np.ones(236, dtype=bool)
    expected[np.argsort(np.abs(before), kind="stable")[:87]] = False  # 0.37 of 236 is 87.32
    assert torch.cat([mask.flatten() for mask in watch.masks[1]]).tolist() == expected.tolist()


class Unfit(Criterion):
    def score(self, module: nn.Module) -> Tensor:
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"final_sparsity": 1.0}, "final_sparsity"),
        ({"final_sparsity": -0.5}, "final_sparsity"),
        ({"begin": 0.9}, "begin"),
        ({"granularity": "4"}, "granularity"),
        ({"granularity": "2:4", "final_sparsity": 0.8}, "final_sparsity"),
        ({"granularity": "2:4", "overrides": {"one": 0.7}}, "overrides.one"),
        ({"granularity": "2:4", "regrow": 0.1}, "regrow"),
        ({"criterion": "size"}, "criterion"),
        ({"scope": "model"}, "scope"),
        ({"schedule": "quartic"}, "schedule"),
        ({"overrides": {"one": 1.0}}, "overrides.one"),
        ({"final_sparsity": 0.0, "overrides": {"one": 0.5}}, "overrides.one"),
        ({"max_layer_sparsity": 0.0}, "max_layer_sparsity"),
        ({"regrow": 1.0}, "regrow"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(wrong: Any, key: str) -> None:
    with pytest.raises(UserError) as error:
        GradualMagnitudePruning(**wrong)
    assert error.value.key == f"callbacks.GradualMagnitudePruning.{key}"


@pytest.mark.parametrize(
    ("wrong", "key", "said"),
    [
        ({"include": ["onne"]}, "include.0", "'one'"),
        ({"exclude": ["conf"]}, "exclude.0", "'conv'"),
        ({"overrides": {"tow": 0.5}}, "overrides.tow", "'two'"),
        ({"overrides": {".": 0}}, "overrides", "leave no layer"),
        ({"scope": ["tow"]}, "scope.0", "'two'"),
        ({"granularity": "2:4"}, "granularity", "conv"),
        ({"granularity": "3x1"}, "granularity", "does not divide"),
        ({"max_layer_sparsity": 0.5}, "max_layer_sparsity", "0.5"),
    ],
)
def test_settings_that_do_not_fit_the_student_are_refused_before_training(wrong: Any, key: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        GradualMagnitudePruning(**wrong).prepare(Net())
    assert error.value.key == f"callbacks.GradualMagnitudePruning.{key}"
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"begin": 0, "end": 1000}, "end"),
        ({"begin": 0, "end": 5, "regrow": 0.1, "freeze": 1000}, "freeze"),
        ({"begin": 9, "end": 0.5}, "begin"),
        ({"criterion": "movement", "schedule": "one_shot"}, "begin"),
        ({"criterion": "wanda", "initial_sparsity": 0.2}, "begin"),
    ],
)
def test_settings_that_do_not_fit_the_run_are_refused_before_training(wrong: Any, key: str) -> None:
    module = distillation()
    before = {name: value.clone() for name, value in module.student.named_parameters()}
    with pytest.raises(UserError) as error:
        fit(module, GradualMagnitudePruning(**wrong))
    assert error.value.key == f"callbacks.GradualMagnitudePruning.{key}"
    assert all(torch.equal(value, before[name]) for name, value in module.student.named_parameters())


def test_scores_of_another_shape_are_refused_by_key() -> None:
    with pytest.raises(UserError, match=r"callbacks\.GradualMagnitudePruning\.criterion"):
        GradualMagnitudePruning(0.5, criterion=Unfit()).prepare(Net())


def test_the_scores_of_movement_are_trained_until_masks_are_frozen() -> None:
    expected = torch.zeros(12, 8, dtype=torch.float64)
    seen: dict[int, Tensor] = {}

    class Look(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step < 4:
                two = pl_module.student.two.weight
                expected.sub_(two.detach().double() * two.grad.double())

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            seen[trainer.global_step] = pl_module.student.two.weight_score.clone()

    module = distillation()
    for name in ("one", "two"):
        module.student.get_submodule(name).bias.data.fill_(5.0)  # no unit is idle, whose weights have no gradient
    pruning = GradualMagnitudePruning(0.5, begin=4, schedule="one_shot", criterion="movement", include=["two"])
    fit(module, Look(), pruning, max_steps=7)
    torch.testing.assert_close(seen[4].double(), expected, rtol=1e-4, atol=1e-8)
    assert torch.equal(seen[7], seen[4])
    gone = expected.flatten().argsort(stable=True)[:48].tolist()
    mask: Any = module.student.two.weight_mask  # type: ignore[union-attr]
    assert sorted((~mask).flatten().nonzero().flatten().tolist()) == sorted(gone)


def test_criteria_learn_from_the_gradient_of_the_mean_whatever_the_accumulation() -> None:
    class Learning(Criterion):
        def __init__(self) -> None:
            self.gradients: list[Tensor] = []

        def learn(self, module: nn.Module) -> None:
            self.gradients.append(module.weight.grad.clone())  # type: ignore[operator, union-attr]

        def score(self, module: nn.Module) -> Tensor:
            return module.weight.detach().abs()  # type: ignore[operator, union-attr, return-value]

    found = []
    for accumulate in (1, 3):
        module, criterion = distillation(), Learning()
        module.student.dropout.p = 0.0  # type: ignore[union-attr]
        pruning = GradualMagnitudePruning(0.5, begin=2, schedule="one_shot", criterion=criterion, include=["one"])
        fit(module, pruning, accumulate_grad_batches=accumulate, max_steps=3)
        found.append(criterion.gradients[0])
    torch.testing.assert_close(found[0], found[1])


def test_what_may_regrow_falls_to_nothing_as_half_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped: list[float] = []
    update = Masks.update

    def noted(self: Masks, target: float, gradients: Any, part: float, *more: Any) -> dict[str, float]:
        swapped.append(part)
        return update(self, target, gradients, part, *more)

    monkeypatch.setattr(Masks, "update", noted)
    pruning = GradualMagnitudePruning(0.5, begin=2, end=4, every_n_steps=2, regrow=0.4, freeze=8)
    fit(distillation(), pruning)
    assert swapped == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 8)) for step in (4, 6, 8)])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_masks_are_chosen_once_an_optimizer_step_whatever_the_accumulation(accumulate: int) -> None:
    calls: list[str] = []

    class Counting(Criterion):
        def settle(self, module: nn.Module) -> None:
            calls.append("settle")

        def learn(self, module: nn.Module) -> None:
            calls.append("learn")

        def score(self, module: nn.Module) -> Tensor:
            return module.weight.detach().abs()  # type: ignore[operator, union-attr, return-value]

    pruning = GradualMagnitudePruning(0.5, begin=2, end=6, every_n_steps=2, criterion=Counting(), include=["one"])
    fit(distillation(), pruning, accumulate_grad_batches=accumulate, max_steps=8)
    assert calls.count("settle") == 3
    assert calls.count("learn") == 6


def test_masks_are_not_sent_from_rank_to_rank() -> None:
    module = distillation()
    fit(module, GradualMagnitudePruning(0.5, begin=1, criterion="wanda"), max_steps=1)
    ignored: Any = module._ddp_params_and_buffers_to_ignore
    assert set(ignored) == {name for name in module.state_dict() if name.endswith(("weight_mask", "input_square"))}
    assert len(ignored) == 6


def test_finishing_zeroes_what_was_written_to_the_weights_since() -> None:
    module, pruning = distillation(), GradualMagnitudePruning(0.5, schedule="one_shot", scope="layer")
    fit(module, pruning, max_steps=1)
    module.student.one.weight.data.fill_(1.0)  # type: ignore[union-attr, operator]
    pruning.finish(module.student)
    assert zeros(module.student)["one"] == 64


@pytest.mark.parametrize(
    ("written", "name", "expected"),
    [
        ("{granularity: 2:4}", "final", 0.5),
        ("{final_sparsity: 0.9, criterion: movement, scope: [query, key]}", "final", 0.9),
        ("{schedule: {0: 0.1, 100: 0.5}}", "end", 100),
        ("{schedule: {0.0: 0.1, 0.5: 0.5}}", "end", 0.5),
        (
            "{criterion: {class_path: distill.compression.pruning.Wanda}, overrides: {query: 0.5},"
            " regrow: 0.1, freeze: 0.9}",
            "freeze",
            0.9,
        ),
    ],
)
def test_a_configuration_names_it_and_gives_every_setting(written: str, name: str, expected: float) -> None:
    config = parse_yaml(
        "{model: {student: s}, trainer: {max_steps: 1},"
        f" callbacks: [{{class_path: GradualMagnitudePruning, init_args: {written}}}]}}",
        "test",
    )
    with only_allowed_imports([]):
        sections = Sections(with_defaults(config))
        [pruning] = sections.make("callbacks")
        [again] = Sections(with_defaults(sections.resolved())).make("callbacks")
    assert isinstance(pruning, GradualMagnitudePruning)
    assert getattr(pruning.schedule, name) == getattr(again.schedule, name) == expected
    assert pruning.plan.granularity == again.plan.granularity


def test_a_checkpoint_is_validated_by_a_trainer_that_never_trained(tmp_path: Path) -> None:
    module, fresh = distillation(), distillation()
    fit(module, GradualMagnitudePruning(0.5, end=5)).save_checkpoint(tmp_path / "last.ckpt")
    arguments: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = Trainer(**arguments, callbacks=[GradualMagnitudePruning(0.5, end=5)])
    loader: Any = DataLoader(rows(), batch_size=4)
    trainer.validate(fresh, loader, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in module.state_dict().items())
    assert sum(zeros(fresh.student).values()) == 118


def test_validating_a_finished_student_leaves_it_finished() -> None:
    module, pruning = distillation(), GradualMagnitudePruning(0.5, end=5)
    trainer = fit(module, pruning)
    pruning.finish(module.student)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert not any("mask" in name for name in before)
    loader: Any = DataLoader(rows(), batch_size=4)
    trainer.validate(module, loader, verbose=False)
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
