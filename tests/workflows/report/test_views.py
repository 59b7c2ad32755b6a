"""What a report shows of models, measured against formulas written out."""

from __future__ import annotations

import base64
import io
import itertools
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from torch import Tensor, nn

from distill.core.signals import IGNORE, Batch, Request
from distill.core.utils.plots import Line
from distill.export.student import limited
from distill.workflows.report.views.attention import attention_map, attention_picture
from distill.workflows.report.views.attribution import integrated_gradients, word_ends, word_values
from distill.workflows.report.views.blocks import Matrix, Table, Words
from distill.workflows.report.views.completions import completion_table, read_completions
from distill.workflows.report.views.confusion import confused, confusion, confusion_block
from distill.workflows.report.views.curves import compression_panels, thinned
from distill.workflows.report.views.disagreements import part_in_classes, part_in_numbers, part_in_sets
from distill.workflows.report.views.layers import compressed_layers, layer_table, rounding_error
from distill.workflows.report.views.pareto import Point, front, letters, spread


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- which classes


def test_confusion_counts_each_label_that_is_one() -> None:
    labels, said = torch.tensor([0, 2, IGNORE, 2, 1, 2]), torch.tensor([1, 2, 0, 0, 1, 2])
    counts = confusion(labels, said, 3)
    pairs = list(zip(labels.tolist(), said.tolist(), strict=True))
    assert counts.tolist() == [[pairs.count((is_, as_)) for as_ in range(3)] for is_ in range(3)]
    assert confused(counts) == [(0, 1, 1), (2, 0, 1)]


def test_few_classes_are_a_matrix_and_of_many_the_worst_pairs_are_named() -> None:
    few = confusion_block("teacher", torch.tensor([[3, 1], [0, 4]]), ["a", "b"])
    assert isinstance(few, Matrix)
    assert few.shares == [[0.75, 0.25], [0.0, 1.0]]
    counts = torch.eye(9, dtype=torch.int64) * 8
    counts[4, 7] = 2
    many = confusion_block("teacher", counts, [f"class {at}" for at in range(9)])
    assert isinstance(many, Table)
    assert [[cell.text for cell in row] for row in many.rows] == [["class 4", "class 7", "2"]]
    assert many.rows[0][2].part == pytest.approx(0.2)


def test_models_part_first_where_both_are_sure() -> None:
    first = torch.tensor([[3.0, 0.0], [0.0, 5.0], [4.0, 0.0], [0.0, 0.3]])
    second = torch.tensor([[0.0, 3.0], [0.0, 6.0], [0.0, 1.0], [0.2, 0.0]])
    found = part_in_classes(first, second, 10)
    assert [one.place for one in found] == [0, 2, 3]  # of 1 both say the same
    sure = torch.tensor(3.0).sigmoid().item()
    assert (found[0].first, found[0].second) == (0, 1)
    assert (found[0].first_sure, found[0].second_sure) == pytest.approx((sure, sure))
    assert found[1].by == pytest.approx(torch.tensor(1.0).sigmoid().item())
    assert len(part_in_classes(first, second, 1)) == 1


def test_sets_part_in_a_class_and_numbers_by_their_distance() -> None:
    first, second = torch.tensor([[2.0, -1.0], [2.0, 9.0]]), torch.tensor([[-2.0, -9.0], [1.0, 1.0]])
    [one] = part_in_sets(first, second, 5)  # the second sample differs much, and names the same set
    assert (one.place, one.first) == (0, 0)
    assert one.by == pytest.approx(torch.tensor(2.0).sigmoid().item() - torch.tensor(-2.0).sigmoid().item())
    numbers = part_in_numbers(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.1], [0.0], [3.5]]), 2)
    assert [one.place for one in numbers] == [1, 2]


# ---------------------------------------------------------------------- which words


class Reader(nn.Module):
    """Embeddings, a curve, and two scores."""

    def __init__(self, curved: bool = True) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 4).double(), nn.Linear(4, 2).double()
        self.curve: nn.Module = nn.Tanh() if curved else nn.Identity()
        for at, parameter in enumerate(self.parameters()):
            parameter.data = drawn(*parameter.shape, seed=at)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.curve(self.table(ids).cumsum(1)).mean(1))
        return scores


def first_score(model: nn.Module, inputs: Any) -> Tensor:
    scores: Tensor = model(inputs["input_ids"])[:, 0]
    return scores


IDS, NEUTRAL = torch.tensor([[3, 7, 1, 10, 4]]), torch.tensor([[3, 0, 0, 0, 4]])


def test_what_tokens_add_is_the_score_less_that_of_neutral_tokens() -> None:
    model = Reader()
    found = integrated_gradients(model, {"input_ids": IDS}, NEUTRAL, first_score)
    whole = (first_score(model, {"input_ids": IDS}) - first_score(model, {"input_ids": NEUTRAL})).item()
    assert found.score - found.baseline == pytest.approx(whole)
    assert found.tokens.sum().item() == pytest.approx(whole, rel=0.02)
    assert found.missing < 0.02
    assert found.tokens[[0, 4]].tolist() == [0.0, 0.0]  # they are what they are compared with
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_a_linear_model_a_token_adds_its_gradient_times_its_difference() -> None:
    model = Reader(curved=False)
    found = integrated_gradients(model, {"input_ids": IDS}, NEUTRAL, first_score, steps=1)
    weights = torch.arange(5, 0, -1).double() / 5  # the cumulative sum counts the first token five times
    difference = model.table(IDS)[0] - model.table(NEUTRAL)[0]
    assert found.tokens.tolist() == pytest.approx((weights * (difference @ model.head.weight[0])).tolist(), abs=1e-6)


def test_few_steps_are_doubled_until_the_sum_is_complete() -> None:
    model = Reader()
    model.table.weight.data *= 6
    once = integrated_gradients(model, {"input_ids": IDS}, NEUTRAL, first_score, steps=1, most=1)
    many = integrated_gradients(model, {"input_ids": IDS}, NEUTRAL, first_score, steps=1, most=512)
    assert once.missing > 0.1
    assert many.missing <= 0.02


PIECES = {1: "the", 2: "film", 3: "##s", 4: ".", 5: "[SEP]", 6: " was", 7: " bor", 8: "ing"}


def wordpiece(ids: Any) -> str:
    return " ".join(PIECES[one] for one in ids).replace(" ##", "").replace(" .", ".").removeprefix("##")


def byte_level(ids: Any) -> str:
    return "".join(PIECES[one] for one in ids)


def test_words_are_found_of_tokenizers_of_either_kind() -> None:
    assert word_ends([1, 2, 3, 4, 5], wordpiece, [5]) == [1, 4, 5]
    assert word_values([1, 2, 3, 4, 5], [1.0, 2.0, 3.0, -4.0, 5.0], wordpiece, [5]) == [
        ("the", 1.0),
        ("films.", 1.0),
        ("[SEP]", 5.0),
    ]
    assert word_values([1, 6, 7, 8], [1.0, 2.0, 3.0, 4.0], byte_level) == [("the", 1.0), ("was", 2.0), ("boring", 7.0)]


def test_the_strongest_word_has_the_full_shade() -> None:
    shades = Words("", {"teacher": [("a", 1.0), ("b", -4.0)], "student": [("a", 0.0)]}).shades
    assert shades == {"teacher": [("a", 1.0, 0.25), ("b", -4.0, -1.0)], "student": [("a", 0.0, 0.0)]}


def test_attention_is_the_mean_of_the_last_layers_heads_and_the_model_stays_as_fast() -> None:
    from transformers import BertConfig, BertModel

    from distill.core.forward import forward

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=12, **sizes)).eval()
    assert model.config._attn_implementation == "sdpa"
    inputs = {"input_ids": IDS}
    found = attention_map(model, lambda request: forward(model, inputs, request))
    model.set_attn_implementation("eager")
    expected = model(**inputs, output_attentions=True).attentions[-1][0].mean(0)
    assert torch.allclose(found, expected)
    assert found.sum(1).tolist() == pytest.approx([1.0] * 5)
    model.set_attn_implementation("sdpa")
    attention_map(model, lambda request: forward(model, inputs, request))
    assert model.config._attn_implementation == "sdpa"
    assert forward(model, inputs, Request(hidden_states=frozenset({-1}))).hidden_states


def test_samples_of_a_batch_that_is_cut_are_still_those_of_their_rows() -> None:
    batches = [Batch({"x": torch.arange(4) + start}, ids=list(range(start + 10, start + 14))) for start in (0, 4)]
    found = [(batch.inputs["x"].tolist(), batch.ids) for batch in limited(batches, 6)]
    assert found == [([0, 1, 2, 3], [10, 11, 12, 13]), ([4, 5], [14, 15])]


def test_a_map_is_as_opaque_as_the_root_of_its_values() -> None:
    values = torch.tensor([[0.5, 0.0, 0.125], [0.02, 0.08, 0.5], [0.5, 0.32, 0.18]])
    picture = attention_picture(values, ["a", "<b>", "a-very-long-token"], "teacher")
    data = base64.b64decode(picture.svg.partition("base64,")[2].partition('"')[0])
    pixels = matplotlib.image.imread(io.BytesIO(data))
    assert pixels.shape == (3, 3, 4)
    assert (pixels[..., 3] ** 2 * 0.5).ravel().tolist() == pytest.approx(values.flatten().tolist(), abs=0.003)
    assert picture.svg.count("&lt;b&gt;") == 2
    assert picture.svg.count("a-very-long…") == 2


# ---------------------------------------------------------------------- layers, curves, costs


def test_layers_have_their_zeros_their_bits_and_what_rounding_took() -> None:
    before, after = {"a.weight": torch.tensor([[3.0, 4.0]])}, {"a.weight": torch.tensor([[3.0, 3.0]])}
    steps = [
        {"kind": "sparsity", "layers": {"a": {"weights": 2, "zeros": 1}, "b": {"weights": 4, "zeros": 4}}},
        {"kind": "quantize", "modules": {"a": {"weights": {"bits": 4}}}},
        {"kind": "share", "groups": []},
    ]
    layers = compressed_layers(steps, after, before)
    assert [(one.name, one.weights, one.zeros, one.bits) for one in layers] == [("a", 2, 1, 4), ("b", 4, 4, None)]
    assert layers[0].error == pytest.approx(1 / 5)
    assert layers[1].error is None
    assert compressed_layers(steps, after)[0].error is None
    table = layer_table("", layers)
    assert [column.name for column in table.columns] == ["layer", "weights", "zeros", "bits", "error of rounding"]
    assert [cell.text for cell in table.rows[1]] == ["b", "4", "100.0 %", "float", ""]
    assert [column.name for column in layer_table("", [layers[1]]).columns] == ["layer", "weights", "zeros"]


def test_the_error_of_rounding_is_a_ratio_of_norms() -> None:
    before, after = drawn(5, 6), drawn(5, 6, seed=1)
    whole = sum(x * x for x in before.flatten().tolist()) ** 0.5
    lost = sum(x * x for x in (before - after).flatten().tolist()) ** 0.5
    assert rounding_error(before, after) == pytest.approx(lost / whole)
    assert rounding_error(torch.zeros(2), torch.zeros(2)) == 0.0


HISTORY = """step,train/learning_rate,prune/sparsity,prune/target_sparsity,qat/fake_quant,qat/observing,structure/heads
1,0.1,0.0,0.1,0.0,0.0,0.0
2,0.2,0.3,0.4,0.0,1.0,0.0
3,0.1,0.6,0.6,1.0,1.0,0.5
4,0.0,0.6,0.6,1.0,0.0,0.5
"""


def test_compressions_are_drawn_as_the_history_has_them(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(HISTORY)
    panels = {panel.title: panel for panel in compression_panels(tmp_path / "metrics.csv")}
    assert list(panels) == ["sparsity", "units", "quantization", "learning rate"]
    assert [list(line.values) for line in panels["sparsity"].lines] == [[0.0, 0.3, 0.6, 0.6], [0.1, 0.4, 0.6, 0.6]]
    phases = {line.name: (list(line.steps), list(line.values)) for line in panels["quantization"].lines}
    assert phases == {"observing": ([1, 2, 4, 4], [0.0, 1.0, 0.0, 0.0]), "rounding": ([1, 3, 4], [0.0, 1.0, 1.0])}
    (tmp_path / "metrics.csv").write_text("step,train/learning_rate\n1,0.1\n")
    assert compression_panels(tmp_path / "metrics.csv") == []


def test_a_long_line_is_drawn_by_means_and_ends_where_it_ends() -> None:
    line = thinned(Line("x", range(10), [float(at) for at in range(10)]), 4)
    assert (list(line.steps), list(line.values)) == ([2, 5, 8, 9], [1.0, 4.0, 7.0, 9.0])
    assert thinned(line, 4) is line


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_front_is_what_no_other_beats(mode: str) -> None:
    sign = 1 if mode == "max" else -1
    stairs = [
        (1, 1),
        (2, 1),
        (3, 2),
        (3, 1),
        (4, 2),
        (5, 3),
        (5, 3),
        (0.5, 0),
        (9, 2.5),
    ]  # some equal in one of the two
    points = [Point(str(at), cost, sign * score) for at, (cost, score) in enumerate(stairs)]

    def beats(a: Point, b: Point) -> bool:
        no_worse = a.cost <= b.cost and sign * a.score >= sign * b.score
        return no_worse and (a.cost, a.score) != (b.cost, b.score)

    best = {(p.cost, p.score) for p in points if not any(beats(other, p) for other in points)}
    found = [points[at] for at in front(points, mode)]
    assert {(p.cost, p.score) for p in found} == best
    assert [p.cost for p in found] == sorted(p.cost for p in found)


def test_letters_stay_apart_and_in_their_order() -> None:
    places = [0.0, 0.1, 5.0, 0.05, 5.2]
    moved = spread(places, 1.0)
    ordered = sorted(moved)
    assert all(b - a >= 1 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert sorted(range(5), key=places.__getitem__) == sorted(range(5), key=moved.__getitem__)
    assert sum(moved[at] for at in (0, 1, 3)) == pytest.approx(0.15)
    assert letters(28)[25:] == ["Z", "AA", "AB"]


def test_completions_that_are_none_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "completions.jsonl"
    assert read_completions(file) == []
    file.write_text('{"prompt": "a", "teacher": "b"}\n{"prompt": 3}\n[]\n')
    lines = read_completions(file)
    assert lines == [{"prompt": "a", "teacher": "b"}]
    table = completion_table("", [*lines, {"prompt": "c\x1b", "student": "d"}])
    assert [column.name for column in table.columns] == ["prompt", "teacher", "student"]
    assert [cell.text for cell in table.rows[1]] == ["c\\x1b", "", "d"]
    file.write_text("no json")
    assert read_completions(file) == []
