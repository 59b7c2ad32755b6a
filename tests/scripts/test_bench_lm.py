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
    from bench import lm_contenders, lm_work

    work = lm_work.Work(tmp_path, steps=3)
    lm_work.prepare(work, str(chat_dir), layers=1, gpt2=False)
    found = {
        name: [bench_lm.measure(work, name)] for name in (lm_contenders.OURS, lm_contenders.ALONE, lm_contenders.BARE)
    }
    clock = lm_work.Clock()
    lm_contenders.ours(work, lm_contenders.OURS, clock)
    assert len(clock.wall) == 2  # of three steps, all but the first
    shown = {one.name: one for one in bench_lm.rows(found)}
    ratio = found[lm_contenders.OURS][0]["processor"] / found[lm_contenders.BARE][0]["processor"]
    assert shown["ours, live : a bare loop, processor"].value == ratio
    config = AutoConfig.from_pretrained(tmp_path / "student")
    width, heads = config.hidden_size, config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or width // heads
    attention = 2 * width * heads * head_width + 2 * width * config.num_key_value_heads * head_width
    assert config.num_hidden_layers == 1
    expected = attention + 3 * width * config.intermediate_size + config.vocab_size * width
    assert lm_work.linear_weights(work.model("student")) == expected
