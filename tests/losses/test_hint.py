import numpy as np
import pytest
import torch
from torch import nn

from distill.core.forward import forward
from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import FitNetHint
from distill.losses.hint import hint_mse


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def specs(student_width=3, teacher_width=5):
    return ModelSpec(Net(student_width), "model.student"), ModelSpec(Net(teacher_width), "model.teacher")


@pytest.mark.parametrize("normalize", [False, True])
def test_value_and_gradient_are_those_of_the_formula(agrees, normalize):
    teacher, weights = torch.randn(2, 3, 4).double(), torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])

    def oracle(s):
        total = 0.0
        for b, i in np.ndindex(2, 3):
            x, y = s[b, i], teacher.numpy()[b, i]
            if normalize:
                x, y = x / np.sqrt((x**2).sum()), y / np.sqrt((y**2).sum())
            squares = ((x - y) ** 2).sum()
            total += weights[b, i].item() * (squares if normalize else squares / 4)
        return total

    agrees(lambda s: hint_mse(s, teacher, weights, normalize), oracle, torch.randn(2, 3, 4))


def test_feature_maps_go_through_a_1x1_convolution_and_average_over_positions():
    student, teacher = specs()
    loss = FitNetHint(taps={"body": "body"})
    loss.bind(student, teacher)
    x = torch.randn(4, 1, 6, 6)
    ours, theirs = (
        forward(student.model, {"input": x}, loss.needs.student),
        forward(teacher.model, {"input": x}, loss.needs.teacher),
    )
    total, positions = loss(ours, theirs, Batch(inputs={"input": x}, labels=torch.zeros(4, dtype=torch.long)))
    weight, bias = loss.regressors["body"].weight, loss.regressors["body"].bias
    mapped = nn.functional.conv2d(ours.taps["body"], weight[:, :, None, None], bias)
    expected = (mapped - theirs.taps["body"]).square().mean((1, 2, 3)).sum()
    assert positions == 4
    torch.testing.assert_close(total, expected)


def test_regressors_are_parameters_from_bind_on_and_in_the_state():
    loss = FitNetHint(taps={"body.0": "body.0"})
    loss.bind(*specs())
    assert [tuple(p.shape) for p in loss.parameters()] == [(5, 3), (5,)]
    assert sorted(loss.state_dict()) == ["regressors.body/0.bias", "regressors.body/0.weight"]


def test_binding_again_keeps_what_was_learned():
    loss, models = FitNetHint(taps={"body": "body"}), specs()
    loss.bind(*models)
    before = loss.regressors["body"].weight
    loss.bind(*models)
    assert loss.regressors["body"].weight is before


@pytest.mark.parametrize(
    ("regressor", "width", "made"), [("auto", 5, 0), ("auto", 3, 1), ("always", 5, 1), ("never", 5, 0)]
)
def test_a_regressor_is_made_only_where_widths_differ_or_where_asked(regressor, width, made):
    loss = FitNetHint(taps={"body": "body"}, regressor=regressor)
    loss.bind(*specs(student_width=width))
    assert len(loss.regressors) == made


def test_several_pairs_count_as_their_mean():
    a, b = (torch.randn(2, 3, 4), torch.randn(2, 3, 4)), (torch.randn(2, 5), torch.randn(2, 5))
    student, teacher = Signals(taps={"x": a[0], "y": b[0]}), Signals(taps={"x": a[1], "y": b[1]})
    batch = Batch(inputs={"input": torch.zeros(2, 1)})
    both = FitNetHint(taps={"x": "x", "y": "y"})(student, teacher, batch).total
    torch.testing.assert_close(2 * both, 2 * (a[0] - a[1]).square().mean() + 2 * (b[0] - b[1]).square().mean())


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 5), (2, 5, 2, 2)])
def test_a_tap_that_is_not_over_the_tokens_of_a_padded_batch_counts_once_a_sample(shape):
    tokens = torch.tensor([[True, False, False], [True, True, True]])
    batch = Batch(inputs={"input": torch.zeros(2, 3)}, labels=torch.zeros(2, dtype=torch.long), tokens=tokens)
    ours, theirs = torch.randn(shape), torch.randn(shape)
    total = FitNetHint(taps={"x": "x"})(Signals(taps={"x": ours}), Signals(taps={"x": theirs}), batch).total
    torch.testing.assert_close(total, (ours - theirs).square().flatten(1).mean(1).sum())


def test_features_of_other_positions_or_widths_are_refused():
    batch, loss = Batch(inputs={"input": torch.zeros(2, 1)}), FitNetHint(taps={"x": "x"}, regressor="never")
    for ours, theirs, rule in (
        ((2, 4, 3), (2, 5, 3), "same positions"),  # tokens
        ((2, 3, 4, 4), (2, 16, 3), "same positions"),  # a map and tokens
        ((2, 3, 4, 4), (2, 5, 4, 4), "3 and 5 wide"),
    ):
        with pytest.raises(UserError, match=rule):
            loss(Signals(taps={"x": torch.randn(ours)}), Signals(taps={"x": torch.randn(theirs)}), batch)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"layers": {}}, "layers"),
        ({"layers": "evenly"}, "layers"),
        ({"taps": {}}, "taps"),
        ({"taps": {"a": "b"}, "layers": {1: 1}}, "taps"),
        ({"kind": "mae"}, "kind"),
        ({"regressor": "sometimes"}, "regressor"),
        ({"kind": "cosine", "normalize": True}, "normalize"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, key):
    with pytest.raises(UserError) as error:
        FitNetHint(**arguments)
    assert error.value.key == key


def test_a_module_that_does_not_exist_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"did you mean 'body'"):
        FitNetHint(taps={"bodi": "body"}).bind(*specs())


class Maps(nn.Module):
    """One layer between a change of layout before and one after."""

    def __init__(self, layer: nn.Module, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.before, self.after = layer, before, after

    def forward(self, x):
        return self.layer(x.permute(self.before)).permute(self.after)


FIRST_TO_LAST, LAST_TO_FIRST, SAME = (0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("layer", "tap", "side"),
    [
        (Maps(nn.LayerNorm(6), FIRST_TO_LAST, LAST_TO_FIRST), "layer", 4),  # [B, H, W, C]
        (Maps(nn.LayerNorm(6), FIRST_TO_LAST, LAST_TO_FIRST), "", 4),  # [B, C, H, W], though its last layer is a norm
        (Maps(nn.Conv2d(6, 6, 1), SAME, FIRST_TO_LAST), "", 4),
        (Maps(nn.LayerNorm(6), FIRST_TO_LAST, LAST_TO_FIRST), "layer", 6),  # as high and wide as it has channels
        (Maps(nn.Conv2d(6, 6, 1), SAME, SAME), "layer", 6),
    ],
)
@pytest.mark.parametrize("kind", ["normalize", "cosine", "regressor"])
def test_features_are_compared_over_the_channels_wherever_they_lie(layer, tap, side, kind):
    name = f"body.{tap}" if tap else "body"
    net = nn.ModuleDict({"body": layer})
    last = isinstance(layer.layer, nn.LayerNorm) == bool(tap) if side == 6 or tap else layer.after == FIRST_TO_LAST
    arguments = {"normalize": {"normalize": True}, "cosine": {"kind": "cosine"}, "regressor": {"regressor": "always"}}
    loss = FitNetHint(taps={name: name}, **arguments[kind])
    loss.bind(ModelSpec(net, "model.student"), ModelSpec(net, "model.teacher"))
    ours, theirs = torch.randn(2, side, side, 6), torch.randn(2, side, side, 6)
    stored = [x if last else x.permute(LAST_TO_FIRST) for x in (ours, theirs)]
    batch = Batch(inputs={"input": torch.zeros(2, 1)}, labels=torch.zeros(2, dtype=torch.long))
    total, count = loss(Signals(taps={name: stored[0]}), Signals(taps={name: stored[1]}), batch)
    cosine = (ours * theirs).sum(-1) / (ours.square().sum(-1) * theirs.square().sum(-1)).sqrt()
    if kind == "regressor":
        (regressor,) = loss.regressors.values()
        expected = (ours @ regressor.weight.T + regressor.bias - theirs).square().mean()
    else:
        expected = ((2 - 2 * cosine) if kind == "normalize" else (1 - cosine)).mean()
    torch.testing.assert_close(total / count, expected)


def test_a_map_whose_channels_cannot_be_told_from_its_width_is_refused():
    net = nn.ModuleDict({"body": Maps(nn.Linear(6, 6), SAME, SAME)})
    loss = FitNetHint(taps={"body": "body"}, normalize=True)
    loss.bind(ModelSpec(net, "model.student"), ModelSpec(net, "model.teacher"))
    maps = Signals(taps={"body": torch.randn(2, 6, 6, 6)})
    with pytest.raises(UserError, match="is ambiguous"):
        loss(maps, maps, Batch(inputs={"input": torch.zeros(2, 1)}))


def test_the_channels_of_a_convolution_over_time_are_its_features():
    net = nn.ModuleDict({"body": nn.Conv1d(1, 5, 3)})
    loss = FitNetHint(taps={"body": "body"}, normalize=True)
    loss.bind(ModelSpec(net, "model.student"), ModelSpec(net, "model.teacher"))
    ours, theirs = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    total = loss(Signals(taps={"body": ours}), Signals(taps={"body": theirs}), Batch(inputs={"x": torch.zeros(2, 1)}))
    cosine = (ours * theirs).sum(1) / (ours.square().sum(1) * theirs.square().sum(1)).sqrt()
    torch.testing.assert_close(total.total, (2 - 2 * cosine).mean(1).sum())
