"""The benchmark of compression runs end to end on small models; nothing is asserted of its times."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


def figures(monkeypatch: pytest.MonkeyPatch, out: Path, **options: Any) -> dict[str, Any]:
    """What the script writes, by section and name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_compression

    options |= {"out": out, "steps": 2, "repeats": 1, "batch-size": 4, "threads": torch.get_num_threads()}
    bench_compression.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    sections = json.loads(out.read_text())["sections"]
    return {section: {row["name"]: row for row in rows} for section, rows in sections.items()}


def test_the_cost_of_every_compression_is_measured_against_float(
    encoder: str, text_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"only": "compression", "data": text_folder, "model": encoder, "phrases": 100}
    (rows,) = figures(monkeypatch, tmp_path / "figures.json", **options).values()
    for name in ("pruning", "int8, observing", "int8, observers frozen", "pruning and int8"):
        assert rows[f"{name} : float"]["value"] > 0
    assert rows["masks, bytes a weight"]["value"] == 1


def test_torchao_is_measured_beside_ours_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from bench import torchao_cost

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(torchao_cost, "SHAPE", small)
    (rows,) = figures(monkeypatch, tmp_path / "figures.json", only="torchao").values()
    if find_spec("torchao") is None:
        assert rows["torchao"]["value"] is None
        assert "not installed" in rows["torchao"]["note"]
        return
    for name in ("training step: ours", "training step: torchao", "prediction: torchao, converted"):
        assert rows[f"{name} : float"]["value"] > 0
    # Grids of a like fineness: neither is several times as far from float as the other.
    mine, theirs = (rows[f"linear map: {name} from float, root mean square"]["value"] for name in ("ours", "torchao"))
    assert 0.5 < mine / theirs < 2
