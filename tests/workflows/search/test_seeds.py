"""The trials that come first."""

from __future__ import annotations

from distill.compression.sensitivity.scan import Kind, Point
from distill.workflows.search.knobs import Knob
from distill.workflows.search.seeds import seeds

TABLE = Knob("bits.embeddings", "callbacks.0.embeddings.bits", 8, (2, 4, 8))
MAPS = Knob("bits.ffn", "callbacks.0.overrides", 8, (2, 4, 8), pattern="mlp")
ZEROS = Knob("sparsity.ffn", "callbacks.1.overrides", 0.5, (0.25, 0.5, 0.9), pattern="mlp")
LAYERS = Knob("layers", "model.student.num_layers", 3, (1, 2))


def point(knob: Knob, level: float, nats: float) -> Point:
    kind: Kind = "bits" if knob.name.startswith("bits") else "sparsity"
    return Point(knob.name, 10, kind, level, 0.5, nats)


POINTS = [
    *(point(TABLE, level, nats) for level, nats in ((2, 0.5), (4, 0.005), (8, 0.0))),
    *(point(MAPS, level, nats) for level, nats in ((2, 0.09), (4, 0.02), (8, 0.001))),
    *(point(ZEROS, level, nats) for level, nats in ((0.25, 0.2), (0.5, 0.3), (0.9, 3.0))),
]


def test_first_comes_the_recipe_and_then_what_the_scan_allows() -> None:
    knobs = [TABLE, MAPS, ZEROS, LAYERS]
    recipe, careful, bold = seeds(knobs, POINTS)
    assert recipe == {"bits.embeddings": 8, "bits.ffn": 8, "sparsity.ffn": 0.5, "layers": 2}  # 3 is not allowed
    # No sparsity is within the tolerance: the least is taken.
    assert careful == {"bits.embeddings": 4, "bits.ffn": 8, "sparsity.ffn": 0.25, "layers": 2}
    assert bold == {"bits.embeddings": 4, "bits.ffn": 2, "sparsity.ffn": 0.25, "layers": 2}


def test_without_a_scan_there_is_the_recipe_alone_and_none_comes_twice() -> None:
    assert seeds([TABLE, LAYERS], []) == [{"bits.embeddings": 8, "layers": 2}]
    assert len(seeds([TABLE], [point(TABLE, 4, 1.0), point(TABLE, 8, 0.0)])) == 1
