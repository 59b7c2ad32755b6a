"""The promises of the example on digits: plain conv nets, a plain Trainer, hints over unequal widths."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.data import TensorDataset

from distill.core.signals import IGNORE, Request
from distill.losses import FitNetHint, HintonKL
from distill.models.teachers import LiveTeacher

pytest.importorskip("sklearn")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "digits.py"
    spec = importlib.util.spec_from_file_location("digits_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(labels: torch.Tensor) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(len(labels), 1, 8, 8, generator=generator), labels, 100 + torch.arange(len(labels)))


LABELS = torch.arange(96) % 10
NONE = torch.full((96,), IGNORE)


def test_the_students_read_the_same_rows_with_fewer_labels(digits: ModuleType) -> None:
    torch.manual_seed(0)
    full, part, validation = digits.data(train=1300, labelled=100)
    assert torch.equal(full.tensors[0], part.tensors[0])
    assert torch.equal(full.tensors[2], part.tensors[2])
    known = part.tensors[1] != IGNORE
    assert int(known.sum()) == 100
    assert torch.equal(part.tensors[1][known], full.tensors[1][known])
    assert not set(full.tensors[2].tolist()) & set(validation.tensors[2].tolist())


def test_student_has_less_than_a_tenth_of_the_teachers_parameters(digits: ModuleType) -> None:
    teacher, student = (
        sum(p.numel() for p in digits.net(width).parameters()) for width in (digits.TEACHER, digits.STUDENT)
    )
    assert student < teacher / 10


def test_a_hint_alone_trains_the_regressor_and_brings_feature_maps_of_unequal_width_closer(digits: ModuleType) -> None:
    torch.manual_seed(0)
    teacher, student = digits.net(6).eval(), digits.net(2)
    hint = FitNetHint(taps={"4": "4"}, normalize=True)
    data = rows(NONE)  # nothing but the hint has a gradient
    batch = digits.every_row([*data.tensors[:2], data.tensors[2]])

    def distance() -> float:
        with torch.no_grad():
            signals = [
                module.task.forward(model.eval(), batch, Request(taps=frozenset({"4"}))) for model in (student, teacher)
            ]
            assert [s.taps["4"].shape[1] for s in signals] == [4, 12]
            return float(hint(*signals, batch).total)

    module = digits.Distillation(student, digits.Plain(digits.every_row), teacher, [hint])
    (regressor,) = hint.regressors.values()
    assert regressor.weight.shape == (12, 4)
    before, distance_before = regressor.weight.detach().clone(), distance()
    head = student[-1].weight.detach().clone()
    digits.fit(student, data, rows(LABELS), teacher, [hint], epochs=6)
    assert not torch.equal(hint.regressors["4"].weight, before)
    assert hint.regressors["4"] is regressor, "binding again keeps what is there"
    assert distance() < 0.7 * distance_before
    # Only weight decay, of 1e-2 times the learning rate a step, may move what is behind the tap.
    assert torch.allclose(student[-1].weight, head, atol=1e-2)


def test_rows_without_a_label_count_for_the_teacher_and_not_for_cross_entropy(digits: ModuleType) -> None:
    torch.manual_seed(0)
    teacher, student = digits.net(6), digits.net(2)
    module = digits.Distillation(student, digits.Plain(digits.every_row), teacher, digits.terms(hints=True))
    data = rows(NONE)
    _, terms = module.terms(module.task.batch(list(data.tensors)))
    assert float(terms["cross_entropy"]) == 0
    assert float(terms["hinton_kl"]) > 0
    assert float(terms["fit_net_hint"]) > 0
    half = rows(torch.where(torch.arange(96) < 48, LABELS, IGNORE))
    objective, terms = module.terms(module.task.batch(list(half.tensors)))
    assert float(terms["cross_entropy"]) > 0
    assert float(objective.detach()) == pytest.approx(96 * float(sum(terms.values())), rel=1e-5)


@pytest.mark.parametrize(("hints", "passes"), [(False, 1), (True, 3)])
def test_a_plain_loaders_ids_let_the_teacher_remember_its_logits(digits: ModuleType, hints: bool, passes: int) -> None:
    # Shuffled batches of a DataLoader of (x, y, id), three epochs: without hints the teacher speaks once a row.
    torch.manual_seed(0)
    teacher, seen = digits.net(6), []
    teacher.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    data, validation = rows(LABELS), rows(LABELS[:32])
    accuracy, module = digits.fit(digits.net(2), data, validation, teacher, digits.terms(hints), epochs=3)
    assert 0 <= accuracy <= 1
    again = 0 if hints else seen[0]  # the first batch is asked twice: do its answers stay?
    assert sum(seen) == passes * len(data) + len(validation) + again
    assert isinstance(module.teacher, LiveTeacher)
    remembered = module.teacher.state_dict()
    if hints:
        return
    assert sorted(remembered["ids"].tolist()) == data.tensors[2].tolist()
    with torch.no_grad():
        expected = teacher(data.tensors[0])[remembered["ids"] - 100]
    torch.testing.assert_close(remembered["logits"], expected, rtol=1e-4, atol=1e-5)


def test_student_comes_closer_to_its_teacher_without_any_label(digits: ModuleType) -> None:
    torch.manual_seed(0)
    teacher, student = digits.net(6), digits.net(2)
    data = rows(LABELS)
    digits.fit(teacher, data, data, epochs=3)
    kl = HintonKL(temperature=4.0)
    _, module = digits.fit(student, rows(NONE), data, teacher, [kl], epochs=1)

    def distance() -> float:
        with torch.no_grad():
            student.eval()
            return float(module.terms(module.task.batch(list(data.tensors)))[1]["hinton_kl"])

    before = distance()
    digits.fit(student, rows(NONE), data, teacher, [kl], epochs=8)
    assert distance() < before
