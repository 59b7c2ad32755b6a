"""The benchmark of a whole step trains both ways, and counts what a step multiplies."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_ours_and_a_bare_loop_take_the_same_steps(
    chat_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_lm

    work = bench_lm.Work(tmp_path, steps=3)
    bench_lm.prepare(work, str(chat_dir), layers=1, gpt2=False)
    found = {name: [bench_lm.measure(work, name)] for name in (bench_lm.OURS, bench_lm.ALONE, bench_lm.BARE)}
    clock = bench_lm.Clock()
    bench_lm.ours(work, bench_lm.OURS, clock)
    assert len(clock.wall) == 2  # of three steps, all but the first
    shown = {one.name: one for one in bench_lm.rows(found)}
    ratio = found[bench_lm.OURS][0]["processor"] / found[bench_lm.BARE][0]["processor"]
    assert shown["ours, live : a bare loop, processor"].value == ratio
    config = AutoConfig.from_pretrained(tmp_path / "student")
    width, heads = config.hidden_size, config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or width // heads
    attention = 2 * width * heads * head_width + 2 * width * config.num_key_value_heads * head_width
    assert config.num_hidden_layers == 1
    expected = attention + 3 * width * config.intermediate_size + config.vocab_size * width
    assert bench_lm.linear_weights(work.model("student")) == expected
