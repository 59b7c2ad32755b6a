"""What ``import distill`` offers can be seen, used and checked, and costs nothing until it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import distill

PUBLIC = {
    *("Batch", "Compression", "Distillation", "DistillationLoss", "ExportTarget", "IGNORE", "LossSum", "Needs"),
    *(
        "OptimizerConfig",
        "Request",
        "Signals",
        "Start",
        "Task",
        "TeacherSource",
        "TextData",
        "TextTask",
        "UserError",
        "__version__",
    ),
    *("ActivationScheme", "WeightScheme", "finish", "load", "prune", "quantize", "save"),
    *("callbacks", "data", "export", "losses", "tasks"),
}


def test_dir_shows_what_is_public_and_all_of_it_is_there() -> None:
    assert set(dir(distill)) == PUBLIC
    assert {name for name in PUBLIC if getattr(distill, name, None) is None} == set()


@pytest.mark.slow
def test_rooms_open_after_the_plain_import_torch_comes_with_the_first_of_them_and_wandb_with_none() -> None:
    code = (
        "import sys, distill; names = dir(distill); assert 'torch' not in sys.modules;"
        "assert distill.losses.HintonKL and distill.callbacks.Compression is distill.Compression;"
        "assert distill.tasks.Plain and distill.data.TextData is distill.TextData; assert 'torch' in sys.modules;"
        "distill.load; import distill.run.loggers.make; assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Destillation'"):
        distill.Destillation  # noqa: B018


def test_a_static_checker_is_shown_the_names_that_python_gives() -> None:
    tree = ast.parse(Path(distill.__file__).read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    shown = {alias.asname: node.module for node in imports for alias in node.names}
    assert {*shown, "__version__"} == PUBLIC
    assert shown.pop("export") == "distill.export.student"  # a room that is a function too
    assert {name: home for name, home in shown.items() if home != "distill"} == distill._HOME


def test_export_is_a_function_whatever_of_its_room_was_imported_before() -> None:
    import distill.export.base

    with pytest.raises(distill.UserError, match="no such format"):
        distill.export(torch.nn.Linear(2, 2), "onyx", "nowhere", [(torch.ones(1, 2), torch.zeros(1).long())])
