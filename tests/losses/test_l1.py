import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import L1, CrossEntropy
from distill.losses.l1 import l1_norm
from distill.tasks import Plain
from distill.training.module import Distillation


def bound(model: nn.Module, **arguments: object) -> L1:
    loss = L1(**arguments)  # type: ignore[arg-type]
    loss.bind(ModelSpec(model, "model.student"), None)
    return loss


def batch(count: int = 3) -> Batch:
    return Batch({"input": torch.zeros(count, 4)}, labels=torch.zeros(count, dtype=torch.long))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Conv1d(1, 2, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def test_value_and_gradient_are_those_of_the_sum_of_absolute_values():
    shapes = [(3, 4), (2,)]
    arrays = [np.random.default_rng(0).normal(size=shape) for shape in shapes]
    weights = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = l1_norm(weights)
    value.backward()
    assert value.item() == pytest.approx(sum(np.abs(a).sum() for a in arrays))
    for weight, array in zip(weights, arrays, strict=True):
        assert weight.grad.tolist() == np.sign(array).tolist()


def test_a_weight_of_zero_has_no_gradient():
    weight = torch.tensor([0.0, -2.0], requires_grad=True)
    l1_norm([weight]).backward()
    assert weight.grad.tolist() == [0.0, -1.0]


def test_it_counts_linear_maps_and_convolutions_without_biases_norms_and_head():
    model = net()
    total, positions = bound(model)(Signals(), Signals(), batch(3))
    expected = sum(float(model[i].weight.double().abs().sum()) for i in (0, 1))
    assert positions == 3
    assert float(total) == pytest.approx(3 * expected, rel=1e-6)
    only = bound(model, include=["^0$"])(Signals(), Signals(), batch(1)).total
    assert float(only) == pytest.approx(float(model[0].weight.double().abs().sum()), rel=1e-6)


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    assert float(bound(model)(Signals(), Signals(), batch(1)).total.detach()) == pytest.approx(
        float(model[0].weight.abs().sum())
    )


def test_the_student_is_no_part_of_the_loss():
    model = net()
    loss = bound(model)
    loss(Signals(), Signals(), batch())
    assert not list(loss.parameters())
    assert not loss.state_dict()
    module = Distillation(net(), Plain(), None, [CrossEntropy(), L1()])
    assert len(list(module.parameters())) == len(list(net().parameters()))


def test_half_precision_is_summed_in_float32():
    weight = torch.full((4096,), 0.1, dtype=torch.bfloat16)
    assert l1_norm([weight]).dtype is torch.float32
    assert float(l1_norm([weight])) == pytest.approx(float(weight.double().sum()), rel=1e-6)


def test_it_finds_the_layers_that_a_callback_has_put_in_place_of_others():
    model = net()
    loss = bound(model)
    model[0] = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 5))
    expected = sum(m.weight.abs().sum() for m in (model[0][0], model[0][1], model[1]))
    assert float(loss(Signals(), Signals(), batch(1)).total) == pytest.approx(float(expected))


def test_of_a_transformer_it_takes_what_pruning_takes():
    config = BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    model = BertForSequenceClassification(config)
    loss = bound(model)
    loss(Signals(), Signals(), batch()).total.backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert names
    assert all(name.endswith("weight") and "LayerNorm" not in name and "embeddings" not in name for name in names)
    assert "classifier.weight" not in names


def test_a_batch_that_counts_nothing_adds_nothing():
    model = net()
    empty = Batch({"input": torch.zeros(2, 4)}, labels=torch.zeros(2), mask=torch.zeros(2, dtype=torch.bool))
    total, positions = bound(model)(Signals(), Signals(), empty)
    total.backward()
    assert total == positions == 0
    assert not model[0].weight.grad.any()


@pytest.mark.parametrize(("wrong", "key"), [({"include": ["nothing"]}, "include.0"), ({"exclude": ["."]}, "")])
def test_patterns_that_choose_nothing_are_refused(wrong, key):
    with pytest.raises(UserError) as error:
        bound(net(), **wrong)
    assert error.value.key == key
    with pytest.raises(UserError, match=r"model\.losses\.1"):
        Distillation(net(), Plain(), None, [CrossEntropy(), L1(**wrong)])
