import pytest
import torch
from torch import nn

from distill.compression.pruning import Granularity
from distill.compression.pruning.granularity import as_matrix, from_matrix
from distill.core.module_selection import Conv1D
from distill.core.utils.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected", "most"),
    [
        ("unstructured", (1, 1, 0), 1.0),
        ("4x1", (4, 1, 0), 1.0),
        ("16x8", (16, 8, 0), 1.0),
        ("2:4", (1, 4, 2), 0.5),
        ("4:8", (1, 8, 4), 0.5),
        ("1:4", (1, 4, 1), 0.75),
    ],
)
def test_it_is_read_from_a_word_and_written_as_it_was(text, expected, most):
    made = Granularity.parse(text)
    assert (made.rows, made.columns, made.keep) == expected
    assert made.most == most
    assert str(made) == text


@pytest.mark.parametrize("text", ["", "4", "2:2", "4:2", "0:4", "0x4", "2:4:8", "x", "2 : 4", "-2:4", "block"])
def test_any_other_word_is_refused(text):
    with pytest.raises(UserError, match="granularity"):
        Granularity.parse(text)


@pytest.mark.parametrize("text", ["unstructured", "2x3", "4x1", "2:6"])
def test_units_are_the_tiles_of_the_matrix_and_lead_back_to_it(text):
    granularity, matrix = Granularity.parse(text), torch.arange(96.0).reshape(8, 12)
    units = granularity.units(matrix)
    rows, columns = granularity.rows, granularity.columns
    tiles = [
        matrix[r : r + rows, c : c + columns].flatten().tolist()
        for r in range(0, 8, rows)
        for c in range(0, 12, columns)
    ]
    assert units.tolist() == tiles
    assert torch.equal(granularity.matrix(units, matrix.shape), matrix)


def test_every_layer_is_seen_as_outputs_by_inputs():
    linear, transposed, conv = nn.Linear(6, 4), Conv1D(4, 6), nn.Conv2d(6, 4, (2, 3))
    assert as_matrix(linear, linear.weight).shape == (4, 6)
    assert torch.equal(as_matrix(transposed, transposed.weight), transposed.weight.t())
    matrix = as_matrix(conv, conv.weight)
    for out in range(4):
        for place in range(6):  # neighbours in a row are the inputs of one place in the kernel
            row = matrix[out, place * 6 : place * 6 + 6]
            assert torch.equal(row, conv.weight[out, :, place // 3, place % 3])
    for module in (linear, transposed, conv):
        assert torch.equal(from_matrix(module, as_matrix(module, module.weight)), module.weight)


def test_costs_are_what_would_be_lost():
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.5, 9.0, 0.5, 7.0]])
    assert Granularity.parse("2:4").costs(scores).tolist() == [3.0, 1.0]
    assert Granularity.parse("1:4").costs(scores).tolist() == [6.0, 8.0]
    assert Granularity.parse("2x2").costs(scores).tolist() == [10.0, 17.0]


def test_of_equal_scores_in_a_group_the_first_go():
    kept = Granularity.parse("2:4").kept(torch.ones(2, 4), torch.tensor([True, False]))
    assert kept.tolist() == [[False, False, True, True], [True] * 4]


@pytest.mark.parametrize(("text", "shape"), [("2:4", (4, 6)), ("4x1", (6, 4)), ("1x8", (4, 4))])
def test_a_layer_that_cannot_be_cut_is_named(text, shape):
    with pytest.raises(UserError, match=r"does not divide the \d (in|out)puts of my.layer"):
        Granularity.parse(text).check(torch.Size(shape), "my.layer")


def test_equal_scores_leave_every_input_to_some_output():
    kept = Granularity.parse("1:4").kept(torch.ones(64, 4), torch.ones(64, dtype=torch.bool))
    assert (kept.sum(1) == 1).all()
    assert kept.sum(0).min() > 4  # of 16 that each place has when they are spread evenly
