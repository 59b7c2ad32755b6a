"""A recipe with knobs on a teacher of two layers, and trials in this process, which is quicker."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from distill.cli.main import main
from distill.config.files import load
from distill.run.folder import Run
from distill.workflows.job.build import build
from distill.workflows.trials.recipe import parse_recipe

CALLBACKS: list[Any] = [
    {"class_path": "StructuredPruning", "init_args": {"heads": 0.5, "neurons": 0.5, "end": 0.5}},
    {"class_path": "QuantizationAwareTraining", "init_args": {"begin": 0.5, "observe": 0.25}},
]


@pytest.fixture(scope="session")
def two_layers(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: str) -> str:
    """A classifier of two layers, wide enough that its table is stored in 4 bits."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    names = {0: "negative", 1: "positive"}
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes, **labels)
    folder = tmp_path_factory.mktemp("two-layers")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def searched(base: dict[str, Any], two_layers: str) -> dict[str, Any]:
    """The configuration in ``base.yaml``: a student of two layers, pruned and rounded in eight steps."""
    base["model"] |= {"teacher": {"path": two_layers}, "student": {"layers": "uniform", "num_layers": 2}}
    base["model"]["optimizer"] = {"lr": 1e-2}
    base["trainer"] |= {"max_steps": 8, "limit_val_batches": 1.0}
    base["callbacks"] = copy.deepcopy(CALLBACKS)
    write(base)
    return base


_JOBS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe is built once for all tests of a search, which look at it and do not train it."""

    def cached(config: dict[str, Any], **given: Any) -> Any:
        key = json.dumps({**config, "name": ""}, sort_keys=True)
        if key not in _JOBS:
            _JOBS[key] = build(config, **given)
        return _JOBS[key]

    monkeypatch.setattr("distill.workflows.search.plan.build", cached)


def write(config: dict[str, Any]) -> None:
    Path("base.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


class Trials:
    """Runs the commands of trials in this process, or has figures stand for what they would come to.

    Attributes:
        commands: What was run.
        stop_at: How many commands are run before an interrupt comes.
        figures: Accuracy and bytes of a configuration, in place of training it.
        fails: Ids of runs that fail.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.stop_at: int | None = None
        self.figures: Callable[[dict[str, Any]], tuple[float, int]] | None = None
        self.fails: set[str] = set()

    def __call__(self, command: Sequence[str]) -> int:
        if self.stop_at is not None and len(self.commands) >= self.stop_at:
            raise KeyboardInterrupt
        words = list(command[3:])
        self.commands.append(words)
        if self.figures is None:
            return main(words)
        return self._export(Run(words[1]), words[3]) if words[0] == "export" else self._fit(words)

    def _fit(self, words: list[str]) -> int:
        at = words.index("--id")
        recipe = parse_recipe([*words[1:at], *words[at + 4 :]])
        config = load(recipe.files, recipe.overrides)
        run = Run(Path("runs", config["name"], words[at + 1]))
        if run.id in self.fails:
            return 1
        run.begin(config)
        assert self.figures is not None
        accuracy, _ = self.figures(config)
        scores = {"student": {"accuracy": accuracy}, "teacher": {"accuracy": 0.9}}
        run.write_result({"scores": scores, "steps": config["trainer"]["max_steps"], "train_seconds": 1.0})
        return 0

    def _export(self, run: Run, to: str) -> int:
        assert self.figures is not None
        accuracy, size = self.figures(run.config)
        report = {"bytes": size, "gzipped_bytes": size // 2, "verified": {"exported": accuracy}}
        report |= {"latency_ms": {"export": size / 100, "the float teacher": 50.0}}
        report |= {"reference": {"name": "the float teacher", "bytes": 10_000}}
        (run.folder / "exports" / to).mkdir(parents=True)
        (run.folder / "exports" / to / "export.json").write_text(json.dumps(report))
        return 0

    @property
    def ids(self) -> list[str]:
        """The runs that were trained, in order."""
        return [words[words.index("--id") + 1] for words in self.commands if words[0] == "fit"]


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    found = Trials()
    monkeypatch.setattr("distill.workflows.search.run.run_to_end", found)
    return found
