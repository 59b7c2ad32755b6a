"""The promises of the Lightning module, on modules small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.callbacks import Determinism, ExponentialMovingAverage, GradualMagnitudePruning
from distill.compression.quantization.ptq import quantize
from distill.core.record import note, steps_of
from distill.core.schedules import Linear
from distill.core.signals import IGNORE, Batch
from distill.core.utils.errors import TrainingError, UserError
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.models.teachers import LiveTeacher
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.nonfinite import FiniteWatch
from distill.training.optimizer import OptimizerConfig


class Net(nn.Module):
    """Two layers with dropout between them."""

    def __init__(self, width: int = 8, dropout: float = 0.0, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(input).relu()))


def samples(n: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, generator=generator), torch.tensor(i % 3)) for i in range(n)]


def trainer(folder: Path, **arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_steps": 4,
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**(defaults | arguments))


def pair(**arguments: Any) -> Distillation:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "student": Net(),
        "teacher": Net(12),
        "task": Plain(),
        "losses": [CrossEntropy(weight=0.5), HintonKL(temperature=2.0)],
        "optimizer": OptimizerConfig(lr=0.05, warmup=0),
    }
    return Distillation(**(defaults | arguments))


class Grab(Callback):
    """Keeps the gradients that each optimizer step uses."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def keep(*_: Any) -> None:
            grads = [p.grad for p in pl_module.student.parameters() if p.grad is not None]
            self.gradients.append(torch.cat([grad.flatten().clone() for grad in grads]))

        trainer.optimizers[0].register_step_post_hook(keep)


class Tokens(nn.Module):
    """A language model of one embedding: position t predicts from token t alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(7, 7)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


class TokenTask(Plain):
    """Batches that the test made itself."""

    def batch(self, raw: Any) -> Batch:
        return raw


def uneven_sequences() -> list[Batch]:
    """Eight sequences of which 1, 2, ... 8 positions count."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for valid in range(1, 9):
        ids = torch.randint(0, 7, (1, 8), generator=generator)
        labels = torch.randint(0, 7, (1, 8), generator=generator)
        labels[:, valid:] = IGNORE
        batches.append(Batch({"input_ids": ids}, labels=labels, mask=labels != IGNORE, tokens=labels != IGNORE))
    return batches


def join(batches: list[Batch]) -> Batch:
    def cat(pick: Any) -> Tensor:
        return torch.cat([pick(b) for b in batches])

    return Batch(
        {"input_ids": cat(lambda b: b.inputs["input_ids"])},
        labels=cat(lambda b: b.labels),
        mask=cat(lambda b: b.mask),
        tokens=cat(lambda b: b.tokens),
    )


@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradient_of_one_batch_of_eight_equals_that_of_accumulated_micro_batches(tmp_path: Path, size: int) -> None:
    # Trap 7: a mean of means would weigh the sequence with one valid position like that with eight.
    def gradient(size: int) -> Tensor:
        rows = uneven_sequences()
        loader = DataLoader([join(rows[i : i + size]) for i in range(0, 8, size)], batch_size=None)  # type: ignore[arg-type]
        module = pair(
            student=Tokens(1), teacher=Tokens(2), task=TokenTask(), optimizer=OptimizerConfig(name="sgd", lr=0.1)
        )
        grab = Grab()
        trainer(tmp_path, max_steps=1, accumulate_grad_batches=8 // size, callbacks=[grab], gradient_clip_val=None).fit(
            module, loader
        )
        return grab.gradients[-1]

    torch.testing.assert_close(gradient(size), gradient(8), rtol=1e-5, atol=1e-7)


def test_gradient_is_that_of_the_mean_over_valid_positions(tmp_path: Path) -> None:
    batch = join(uneven_sequences())
    student, teacher = Tokens(1), Tokens(2)
    table = student.table.weight.detach().double().requires_grad_()
    logits = table[batch.inputs["input_ids"]][batch.mask]
    target = (teacher.table.weight.double()[batch.inputs["input_ids"]][batch.mask] / 2).softmax(-1)
    kl = 4 * (target * (target.log() - (logits / 2).log_softmax(-1))).sum(-1).mean()
    ce = -logits.log_softmax(-1).gather(-1, batch.labels[batch.mask][:, None]).mean()  # type: ignore[index]
    (0.5 * ce + kl).backward()
    module = pair(student=student, teacher=teacher, task=TokenTask())
    grab = Grab()
    trainer(tmp_path, max_steps=1, callbacks=[grab]).fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    assert table.grad is not None
    torch.testing.assert_close(grab.gradients[-1].double(), table.grad.flatten(), rtol=1e-5, atol=1e-7)


def test_teacher_is_in_no_state_optimizer_or_gradient_and_unchanged(tmp_path: Path) -> None:
    module = pair()
    assert isinstance(module.teacher, LiveTeacher)
    teacher = module.teacher.models[0]
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    fit = trainer(tmp_path)
    fit.fit(module, DataLoader(samples(), batch_size=4))  # type: ignore[arg-type]
    own = {id(p) for p in teacher.parameters()}
    assert not own & {id(p) for p in module.parameters()}
    assert not own & {id(p) for group in fit.optimizers[0].param_groups for p in group["params"]}
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    fit.save_checkpoint(tmp_path / "c.ckpt")
    checkpoint = torch.load(tmp_path / "c.ckpt", weights_only=True)
    assert all(k.startswith(("student.", "losses.", "metrics.")) for k in checkpoint["state_dict"])


def test_student_trains_and_teacher_does_not_at_every_step(tmp_path: Path) -> None:
    # Trap 14, with a student that arrives in eval mode as from_pretrained hands it out.
    seen: list[tuple[bool, bool]] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append((pl_module.student.training, pl_module.teacher.models[0].training))

    module = pair(student=Net(dropout=0.5).eval(), teacher=Net(dropout=0.5).train())
    loader = DataLoader(samples(), batch_size=4)  # type: ignore[arg-type]
    trainer(tmp_path, max_steps=8, num_sanity_val_steps=2, val_check_interval=2, callbacks=[Look()]).fit(
        module, loader, loader
    )
    assert seen == [(True, False)] * 8


def test_regressors_are_trained_clipped_and_saved(tmp_path: Path) -> None:
    module = pair(losses=[CrossEntropy(), FitNetHint(taps={"body": "body"})])
    hint = module.losses[1]
    before = {name: p.detach().clone() for name, p in hint.named_parameters()}
    assert before, "widths differ, so there is a regressor"
    fit = trainer(tmp_path, gradient_clip_val=0.1)
    fit.fit(module, DataLoader(samples(), batch_size=4))  # type: ignore[arg-type]
    assert any(not torch.equal(before[name], p) for name, p in hint.named_parameters())
    fit.save_checkpoint(tmp_path / "c.ckpt")
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    assert {f"losses.1.{name}" for name in before} <= set(saved)


def test_a_teacher_that_no_loss_reads_does_not_run(tmp_path: Path) -> None:
    teacher = Net()
    calls: list[int] = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    trainer(tmp_path).fit(pair(teacher=teacher, losses=[CrossEntropy()]), DataLoader(samples(), batch_size=4))  # type: ignore[arg-type]
    assert not calls


def test_teacher_is_validated_once(tmp_path: Path) -> None:
    calls: list[int] = []
    module = pair(losses=[CrossEntropy()])
    assert module.teacher is not None
    module.teacher.models[0].register_forward_hook(lambda *_: calls.append(1))
    rows = [(x, y, i) for i, (x, y) in enumerate(samples())]
    fit = trainer(tmp_path, max_epochs=3, max_steps=-1)
    fit.fit(module, DataLoader(rows, batch_size=4), DataLoader(rows, batch_size=4))  # type: ignore[arg-type]
    assert len(calls) == 4
    assert 0 <= module.teacher_scores["accuracy"] <= 1
    assert "val/agreement" in fit.callback_metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_term_and_samples(tmp_path: Path, value: float) -> None:
    rows: list[Any] = [(x, y, i) for i, (x, y) in enumerate(samples())]
    rows[9] = (torch.full((4,), value), rows[9][1], 9)
    module = pair(losses=[CrossEntropy(name="labels")])
    with pytest.raises(TrainingError, match=r"step 2.*labels = nan.*\[8, 9, 10, 11\]"):
        trainer(tmp_path).fit(module, DataLoader(rows, batch_size=4))
    assert all(torch.isfinite(p).all() for p in module.student.parameters())


def test_every_term_is_logged_raw_and_weighted_by_name(tmp_path: Path) -> None:
    fit = trainer(tmp_path, log_every_n_steps=1, max_steps=1)
    fit.fit(pair(), DataLoader(samples(), batch_size=4))  # type: ignore[arg-type]
    logged = fit.logged_metrics
    assert float(logged["train/cross_entropy_weighted"]) == pytest.approx(0.5 * float(logged["train/cross_entropy"]))
    assert float(logged["train/loss"]) == pytest.approx(
        float(logged["train/cross_entropy_weighted"]) + float(logged["train/hinton_kl_weighted"]), rel=1e-5
    )


@pytest.mark.parametrize("size", [1, 3])
def test_what_is_logged_of_a_step_is_the_mean_over_all_of_its_micro_batches(tmp_path: Path, size: int) -> None:
    logged = []
    for batch_size, accumulate in ((9, 1), (size, 9 // size)):
        fit = trainer(tmp_path, log_every_n_steps=1, max_steps=1, accumulate_grad_batches=accumulate)
        fit.fit(pair(), DataLoader(samples(9), batch_size=batch_size))  # type: ignore[arg-type]
        logged.append({name: float(value) for name, value in fit.logged_metrics.items()})
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


def test_another_teacher_is_refused_on_resume(tmp_path: Path) -> None:
    loader = DataLoader(samples(), batch_size=4)  # type: ignore[arg-type]
    first = trainer(tmp_path)
    first.fit(pair(), loader)
    first.save_checkpoint(tmp_path / "c.ckpt")
    torch.manual_seed(9)
    with pytest.raises(UserError, match="not the teacher"):
        trainer(tmp_path, max_steps=6).fit(
            pair(teacher=Net(12)), loader, ckpt_path=tmp_path / "c.ckpt", weights_only=True
        )


def test_two_losses_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="names of losses must differ"):
        pair(losses=[HintonKL(temperature=1), HintonKL(temperature=4)])


def test_no_loss_is_refused() -> None:
    with pytest.raises(UserError, match="at least one loss"):
        pair(losses=[])


class Keep(Callback):
    """Saves a checkpoint after some steps."""

    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.after and not self.path.exists():  # at the step, not amid the next one's parts
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("after", [3, 5, 8])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path, after: int, accumulate: int) -> None:
    # Dropout, a student in eval mode, a remembering teacher; every batch is the same, so their order is no matter.
    rows = [(x, y, i) for i, (x, y) in enumerate(samples(4))] * 5 * accumulate

    def run(*callbacks: Callback, resume: Path | None = None) -> Distillation:
        module = pair(student=Net(dropout=0.5).eval(), optimizer=OptimizerConfig(lr=0.05, warmup=0.2))
        loop = trainer(
            tmp_path,
            max_epochs=2,
            max_steps=-1,
            accumulate_grad_batches=accumulate,
            callbacks=[Determinism(1), *callbacks],
        )
        loop.fit(module, DataLoader(rows, batch_size=4), ckpt_path=resume, weights_only=True)
        assert loop.global_step == 10
        return module

    whole = run(Keep(tmp_path / "c.ckpt", after))
    resumed = run(resume=tmp_path / "c.ckpt")
    for name, value in whole.student.state_dict().items():
        torch.testing.assert_close(resumed.student.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_run_with_a_teacher_is_not_resumed_without_one(tmp_path: Path) -> None:
    loader = DataLoader(samples(), batch_size=4)  # type: ignore[arg-type]
    first = trainer(tmp_path)
    first.fit(pair(), loader)
    first.save_checkpoint(tmp_path / "c.ckpt")
    alone = pair(teacher=None, losses=[CrossEntropy()])
    with pytest.raises(UserError, match="began with a teacher"):
        trainer(tmp_path, max_steps=6).fit(alone, loader, ckpt_path=tmp_path / "c.ckpt", weights_only=True)


def test_agreement_on_test_data_is_not_that_on_validation_data_of_the_same_ids(tmp_path: Path) -> None:
    rows = samples(8)
    validation = [(x, y, i) for i, (x, y) in enumerate(rows)]
    test = [(-3 * x, y, i) for i, (x, y) in enumerate(rows)]
    module = pair()
    loop = trainer(tmp_path)
    loop.validate(module, DataLoader(validation, batch_size=4), verbose=False)  # type: ignore[arg-type]
    (scores,) = loop.test(module, DataLoader(test, batch_size=4), verbose=False)  # type: ignore[arg-type]
    assert module.teacher is not None
    x = torch.stack([row[0] for row in test])
    with torch.no_grad():
        expected = (module.student.eval()(x).argmax(-1) == module.teacher.models[0](x).argmax(-1)).float().mean()
    assert scores["test/agreement"] == pytest.approx(float(expected))


def test_a_teacher_s_score_on_test_data_is_of_that_alone(tmp_path: Path) -> None:
    rows = samples(8)
    module = pair()
    assert module.teacher is not None
    right = module.teacher.models[0](torch.stack([x for x, _ in rows])).argmax(-1)
    validation = [(x, int(y)) for (x, _), y in zip(rows, right, strict=True)]
    test = [(x, (y + 1) % 3) for x, y in validation]
    loop = trainer(tmp_path)
    for _ in range(2):  # of the second one the teacher's score is known
        loop.validate(module, DataLoader(validation, batch_size=4), verbose=False)  # type: ignore[arg-type]
    assert module.teacher_scores["accuracy"] == 1
    loop.test(module, DataLoader(test, batch_size=4), verbose=False)  # type: ignore[arg-type]
    assert module.teacher_scores["accuracy"] == 0


class Classes(TokenTask):
    """Likewise, each position of a class."""

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def update(self, metrics: Any, logits: Tensor, batch: Batch) -> None:
        assert batch.labels is not None
        valid = batch.labels != IGNORE
        super().update(metrics, logits[valid], replace(batch, labels=batch.labels[valid]))


def test_agreement_is_over_the_positions_that_count(tmp_path: Path) -> None:
    batches = uneven_sequences()
    student, teacher = Tokens(1), Tokens(1)
    counted = torch.cat([batch.inputs["input_ids"][batch.mask] for batch in batches])
    others = torch.cat([batch.inputs["input_ids"][~batch.mask] for batch in batches])  # type: ignore[operator]
    with torch.no_grad():  # they differ in the token that stands outside of the mask most often for its part within it
        shares = [(int((others == t).sum()) / len(others) - int((counted == t).sum()) / len(counted)) for t in range(7)]
        teacher.table.weight[shares.index(max(shares))].neg_()
    module = pair(student=student, teacher=teacher, task=Classes(), losses=[HintonKL()])
    loader: Any = DataLoader(batches, batch_size=None)
    (scores,) = trainer(tmp_path).validate(module, loader, verbose=False)
    same = student.table.weight.argmax(1) == teacher.table.weight.argmax(1)
    agreement = float(same[counted].float().mean())
    assert agreement - float(same[torch.cat([counted, others])].float().mean()) > 0.02
    assert scores["val/agreement"] == pytest.approx(agreement)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_term_that_is_infinite_stops_the_run_as_one_that_is_no_number(value: float) -> None:
    terms = {"good": torch.tensor(1.0), "bad": torch.tensor(value)}
    with pytest.raises(TrainingError, match=rf"at step 7: bad = {value}\."):
        FiniteWatch().watch(terms, Batch({"input": torch.zeros(1)}, step=7))


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_counts_of_a_validation_are_exact_where_weights_are_of_half_precision(tmp_path: Path, precision: Any) -> None:
    # bfloat16 counts no further than 256.
    rows = samples(1200)
    module = pair(teacher=Net(8))
    (scores,) = trainer(tmp_path, precision=precision).validate(module, DataLoader(rows, batch_size=4), verbose=False)  # type: ignore[arg-type]
    assert module.teacher is not None
    x, y = torch.stack([row[0] for row in rows]).to(module.dtype), torch.stack([row[1] for row in rows])
    with torch.no_grad():
        ours = module.student.eval()(x).argmax(-1)
        theirs = module.teacher.models[0](x.float()).argmax(-1)
    assert scores["val/accuracy"] == pytest.approx(float((ours == y).float().mean()), abs=0.005)
    assert scores["val/agreement"] == pytest.approx(float((ours == theirs).float().mean()), abs=0.005)


def test_weights_of_tokens_are_exact_where_half_precision_is_the_default() -> None:
    batch = Batch({"input_ids": torch.zeros(1, 7)}, tokens=torch.ones(1, 7, dtype=torch.bool))
    torch.set_default_dtype(torch.bfloat16)
    try:
        weights = batch.token_weights(torch.zeros(1, 7, 2))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(weights, torch.full((1, 7), 1 / 7))


def test_a_teacher_keeps_its_dtype_beside_a_student_of_another(tmp_path: Path) -> None:
    module = pair(teacher=Net(12).bfloat16())
    trainer(tmp_path, max_steps=1).fit(module, DataLoader(samples(), batch_size=4))  # type: ignore[arg-type]
    assert module.teacher is not None
    assert next(module.teacher.models[0].parameters()).dtype is torch.bfloat16


def test_a_pair_of_other_numbers_of_classes_is_refused(tmp_path: Path) -> None:
    module = Distillation(Net(classes=3), Plain(), Net(classes=5), [HintonKL()])
    with pytest.raises(UserError, match="student has 3 outputs and the teacher 5"):
        trainer(tmp_path).fit(module, DataLoader(samples(), batch_size=4))  # type: ignore[arg-type]


class Decides(Net):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).argmax(-1)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_model_that_decides_in_place_of_giving_logits_is_refused_by_name(tmp_path: Path, who: str) -> None:
    with pytest.raises(UserError, match=r"Decides gives a tensor of int64 \[4\]"):
        trainer(tmp_path).fit(pair(**{who: Decides()}), DataLoader(samples(), batch_size=4))  # type: ignore[arg-type]


# ---------------------------------------------------------------------- students that were compressed before


def test_a_student_that_is_quantized_is_not_trained(tmp_path: Path) -> None:
    student = Net()
    note(student, *quantize(student, [torch.randn(4, 4)], include=["body"]))
    before = student.body.weight.clone()
    with pytest.raises(UserError, match=r"model\.student: weights that are quantized already"):
        trainer(tmp_path).fit(pair(student=student), DataLoader(samples(), batch_size=8))
    assert torch.equal(student.body.weight, before)


@pytest.mark.parametrize("held", [False, True])
def test_zeros_that_nothing_holds_are_reported_and_not_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, held: bool
) -> None:
    student = Net()
    with torch.no_grad():
        student.body.weight[1:].zero_()
    note(student, {"kind": "sparsity", "actual": 0.875, "layers": {"body": {"weights": 32, "zeros": 28}}})
    callbacks = [GradualMagnitudePruning(0.5, schedule="one_shot")] if held else []
    trainer(tmp_path, callbacks=callbacks).fit(pair(student=student), DataLoader(samples(), batch_size=8))
    assert ("nothing holds its zeros" in caplog.text) == (not held)
    [step] = steps_of(student)
    zeros = int((student.body.weight == 0).sum())
    assert step["layers"] == {"body": {"weights": 32, "zeros": zeros}}
    assert step["actual"] == zeros / 32 < 0.875


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": {"lr": 0.1}}, r"model\.optimizer = .*from Python write OptimizerConfig\(lr=0\.1\)"),
        ({"student": {"path": "x"}}, r"model\.student = .*from Python write StudentConfig\(path='x'\)"),
        ({"student": None}, r"model\.student: must be a StudentConfig or a text or a Module"),
        ({"labels": "neg"}, r"model\.labels = 'neg': must be a list.*put it in brackets: \['neg'\]"),
        ({"losses": "HintonKL", "teacher": "./nowhere"}, r"model\.losses = 'str': must be a list"),
    ],
)
def test_what_python_gives_wrongly_is_refused_before_a_model_is_loaded(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Distillation(**{"student": nn.Linear(2, 2), "task": Plain(), **given})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HintonKL(weight="0.5"), r"^weight = '0\.5': must be a number or a Schedule"),
        (lambda: HintonKL(temperature="2"), r"^temperature = '2': must be a number or a Schedule"),
        (lambda: OptimizerConfig(lr="0.1"), r"^model\.optimizer\.lr = '0\.1': must be a number"),
        (lambda: Linear("1", 2.0), r"^start = '1': must be a number"),
        (lambda: GradualMagnitudePruning(final_sparsity="0.8"), r"final_sparsity = '0\.8': must be a number or null"),
        (lambda: GradualMagnitudePruning(include="attention"), r"include = .*put it in brackets: \['attention'\]"),
        (lambda: ExponentialMovingAverage(decay="0.9"), r"decay = '0\.9': must be a number"),
    ],
)
def test_a_text_for_a_number_is_refused_in_python_too(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()
