"""The comparison of ways to teach a language model: configurations, and the table of what was found."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from distill.config.files import load
from distill.workflows.job.build import resolve

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("language_models")


@pytest.fixture
def tables(script: Any) -> Any:
    return import_module("language_models_table")


@pytest.mark.slow
def test_every_way_is_a_configuration_that_the_command_takes(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def keep(*words: str) -> dict[str, int]:
        seen.append(words[words.index("-c") + 1] if "-c" in words else "")
        raise SystemExit

    monkeypatch.setattr(script, "distill", keep)
    for make in (script.wikitext, script.tokenizers):
        pair = make(tmp_path / make.__name__, 10, "somewhere", "anywhere")
        pair.work.mkdir()
        monkeypatch.setattr(pair, "recording", lambda form: tmp_path / form)
        monkeypatch.setattr(pair, "texts", lambda: tmp_path / "texts.jsonl")
        for way in pair.ways:
            with pytest.raises(SystemExit):
                pair.run(way, 0)
    assert len(set(seen)) == len(script.WAYS) + 1  # alone twice
    for file in seen:
        resolve(load([file]))


def test_the_table_has_means_over_seeds_and_what_is_gained_on_the_same_seed(tables: Any) -> None:
    found = [
        {
            "pair": "p",
            "way": way,
            "seed": seed,
            "bits_per_byte": bits,
            "acceptance": 0.5,
            "cpu_seconds": 10,
            "peak_mb": 7,
        }
        for way, seed, bits in (("alone", 0, 2.0), ("alone", 1, 3.0), ("KL", 0, 1.5), ("KL", 1, 2.75))
    ]
    lines = list(tables.table(found))
    assert "| alone | 2.500 ± 0.707 | 0.000 ± 0.000 | 0.500 ± 0.000 | 10 | 7 | 2 |" in lines
    assert "| KL | 2.125 ± 0.884 | 0.375 ± 0.177 | 0.500 ± 0.000 | 10 | 7 | 2 |" in lines


def test_what_compression_costs_is_measured_beside_as_many_steps_without_it(tables: Any) -> None:
    dense, int4 = "then half as long again", "then 50 % pruned, int4"
    off = {"onnx_mb": 0.4, "verified": {"exported": 2.01, "trained": 2.0}}
    found: list[dict[str, Any]] = [
        {"pair": "p", "way": dense, "seed": 0, "bits_per_byte": 1.8, "guess": 3.0, "acceptance": 0.5},
        {"pair": "p", "way": int4, "seed": 0, "bits_per_byte": 2.1, "guess": 3.0, "acceptance": 0.4, **off},
    ]
    assert f"| {int4} | 2.100 | 75.0 % | 0.400 | 0.40 | 0.0100 | 1 |" in list(tables.compressed(found))
    assert not [line for line in tables.table(found) if int4 in line]
