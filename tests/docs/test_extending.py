"""The page on extending shows the files of ``examples/``, and its commands and settings work."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
NAMES = ("negative", "positive")
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}(?: title=[^\n]*)?\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_the_files_as_they_are() -> None:
    assert [block for block in blocks("python") if block.startswith('"""')] == [
        (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("loss", "task", "compression", "export_target")
    ]
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_at_most_25_lines_below_its_imports(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    imports = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    below = text.splitlines()[imports[-1].end_lineno :]
    assert len([line for line in below if line.strip()]) <= 25


@pytest.mark.parametrize("name", sorted({*re.findall(r"`(distill(?:\.\w+)+)", PAGE)}))
def test_a_name_on_the_page_leads_somewhere(name: str) -> None:
    parent, _, last = name.rpartition(".")
    try:
        found = import_module(name)
    except ModuleNotFoundError:
        found = getattr(import_module(parent), last)
    assert found is not None


@pytest.fixture
def here(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, texts that have titles, and the page's settings; ``examples`` can be imported."""
    monkeypatch.syspath_prepend(str(ROOT))
    for split, rows in (("train", range(60)), ("validation", range(60, 80))):
        lines = [
            {"headline": f"a {'good' if r % 3 else 'bad'} film", "sentence": f"story {r}", "label": NAMES[r % 3 > 0]}
            for r in rows
        ]
        Path(f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    changes = {
        "data": {"path": None, "files": {split: f"{split}.jsonl" for split in ("train", "validation")}},
        "trainer": {"max_steps": 6, "limit_val_batches": 1.0},
    }
    Path("reviews.yaml").write_text(json.dumps(base | {key: base[key] | value for key, value in changes.items()}))
    for name, text in zip(("loss", "task", "compression"), blocks("yaml"), strict=True):
        Path(f"{name}.yaml").write_text(text)
    return Path.cwd()


@pytest.mark.slow
def test_the_pages_settings_make_one_run_and_its_export(here: Path, distill: Callable[..., Any]) -> None:
    commands = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    fits = [command for command in commands if command[:2] == ["distill", "fit"]]
    files = [argument for command in fits for argument in command if argument.endswith(".yaml")]
    assert {*files} == {"reviews.yaml", "loss.yaml", "task.yaml", "compression.yaml"}
    given = [argument for file in dict.fromkeys(files) for argument in ("-c", file)]
    done = distill("fit", *given, "--allow", "examples", "--id", "one")
    assert done.code == 0, done.err
    run = next(Path("runs").glob("*/one"))
    result = json.loads((run / "result.json").read_text())
    scores = result["scores"]
    assert 0 <= scores["student"]["balanced_accuracy"] <= 1
    assert scores["guess"]["balanced_accuracy"] == 0.5
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/teacher_brier", "val/balanced_accuracy"} <= {*header}
    written = yaml.safe_load((run / "config.yaml").read_text())["model"]["losses"][0]
    assert written == {"class_path": "examples.loss.TeacherBrier", "init_args": {"weight": 0.5, "power": 1.5}}
    refused = distill("fit", *given, "--allow", "examples", "--model.losses.0.power", "high")
    assert (refused.code, "model.losses.0.power" in refused.err, "number" in refused.err) == (2, True, True)
    (step,) = [
        s for s in json.loads((run / "student/compression.json").read_text())["steps"] if s["kind"] == "sparsity"
    ]
    assert step["actual"] == pytest.approx(0.5, abs=0.02)

    (export,) = [command for command in commands if command[:2] == ["distill", "export"]]
    done = distill(*(argument.replace("runs/NAME/ID", str(run)) for argument in export[1:]))
    assert done.code == 0, done.err
    import distill as package

    program = torch.export.load(run / "exports/torch-program/program.pt2").module()
    ids = torch.tensor([[2, 7, 9, 11, 3]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = package.load(run / "student")(**inputs).logits  # type: ignore[operator]
        torch.testing.assert_close(program(*inputs.values()), expected)


@pytest.mark.parametrize("power", [2.0, 1.5])
def test_the_loss_is_its_formula_over_the_positions_that_count(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from distill import Batch, Signals
    from examples.loss import TeacherBrier

    ours, theirs = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    total, positions = TeacherBrier(power=power)(Signals(ours), Signals(theirs), Batch({"x": ours}, mask=mask))
    p, q = ours.double().exp(), theirs.double().exp()
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    assert float(total) == pytest.approx(float(((p - q)[mask].abs() ** power).sum()), rel=1e-5)
    assert int(positions) == 3


def test_the_tasks_metric_finds_every_class_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from distill import IGNORE, Batch
    from examples.task import TitledTexts

    task = TitledTexts(["a", "b"])
    metrics = task.metrics()
    labels = torch.tensor([0, 0, 0, 1, IGNORE])
    predicted = torch.tensor([0, 0, 1, 0, 1])
    task.update(metrics, torch.nn.functional.one_hot(predicted).float(), Batch({"x": labels}, labels=labels))
    assert float(metrics["balanced_accuracy"].compute()) == pytest.approx((2 / 3 + 0 / 1) / 2)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("examples.export_target.TorchProgram", "--to = 'examples.export_target.TorchProgram'.*add --allow examples"),
        ("distill.export.base.ExportTarget", "is abstract"),
        ("distill.losses.HintonKL", "is no ExportTarget"),
        ("distill.export.nothing.There", "cannot be imported"),
    ],
)
def test_what_is_no_target_is_refused(to: str, said: str, distill: Callable[..., Any]) -> None:
    done = distill("export", "nowhere", "--to", to)
    assert done.code == 2
    assert re.search(said, done.err)


def test_the_adaptor_on_the_page_reads_a_loader_of_dictionaries() -> None:
    (block,) = (block for block in blocks("python") if "adaptor=" in block)
    names: dict[str, Any] = {}
    exec(block, names)
    batch = names["task"].batch({"pixels": torch.zeros(3, 4), "labels": torch.tensor([0, 1, 2])})
    assert list(batch.inputs) == ["pixels"]
    assert batch.labels.tolist() == [0, 1, 2]
