"""Which knobs a recipe has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config.files import load
from distill.workflows.job.build import build
from distill.workflows.search.found import Found, find


@pytest.fixture
def found(searched: dict[str, Any]) -> Any:
    def of(minimize: str = "bytes", **changes: Any) -> Found:
        for key, value in changes.items():
            if isinstance(value, dict):
                searched[key] |= value
            else:
                searched[key] = value
        Path("base.yaml").write_text(yaml.safe_dump(searched))
        return find(build(load(["base.yaml"])), minimize)

    return of


def names(found: Found) -> list[str]:
    return [knob.name for knob in found.knobs]


def test_what_a_recipe_names_is_found(found: Any) -> None:
    there = found()
    expected = "layers heads neurons bits.attention bits.ffn bits.embeddings temperature.HintonKL weight.CrossEntropy"
    assert names(there) == expected.split()
    layers = there.knobs[0]
    assert (layers.key, layers.recipe, layers.values) == ("model.student.num_layers", 2, (1, 2))
    assert {group.knob: len(group.layers) for group in there.groups} == {
        "bits.attention": 8,
        "bits.ffn": 4,
        "bits.embeddings": 3,
    }


def test_layers_may_be_given_as_a_share(found: Any) -> None:
    layers = found(model={"student": {"num_layers": 0.5}}).knobs[0]
    assert (layers.name, layers.recipe, layers.values) == ("layers", 1, (1, 2))


def test_what_is_not_named_is_not_searched(found: Any) -> None:
    losses = [{"class_path": "HintonKL"}, {"class_path": "FitNetHint", "init_args": {"layers": {1: 1, 2: 2}}}]
    assert names(found(callbacks=[], model={"losses": losses})) == ["temperature.HintonKL", "weight.FitNetHint"]


def test_zeros_are_searched_where_they_count(found: Any) -> None:
    pruning = [{"class_path": "GradualMagnitudePruning", "init_args": {"final_sparsity": 0.6}}]
    there = found(callbacks=pruning)
    assert "sparsity.ffn" not in names(there)
    assert there.left == ["sparsity: single zeros change no bytes; they count with --minimize gzipped_bytes"]
    there = found("gzipped_bytes", callbacks=pruning)
    knobs = {knob.name: knob for knob in there.knobs}
    assert {"sparsity.attention", "sparsity.ffn"} < knobs.keys()
    assert 0.6 in knobs["sparsity.ffn"].values


def test_ranks_and_layers_that_go_are_found(found: Any) -> None:
    callbacks = [
        {"class_path": "LowRank", "init_args": {"rank": 8}},
        {"class_path": "StructuredPruning", "init_args": {"layers": 1}},
    ]
    there = found(callbacks=callbacks)
    assert "rank" in names(there)
    assert next(knob.values for knob in there.knobs if knob.name == "rank") == (2, 4, 8, 16)
    # The student's number of layers is searched once.
    assert names(there).count("layers") == 1
