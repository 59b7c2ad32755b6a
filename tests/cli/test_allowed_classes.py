"""A configuration names classes of allowed packages only; nothing else is even imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.config.class_paths import check_path, only_allowed_imports
from distill.core.utils.errors import UserError

EVIL = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
from distill.losses import HintonKL as Loss
from distill.core.schedules import Constant as Schedule
from distill.data import TextData as Data
from pytorch_lightning import Callback
from pytorch_lightning.strategies import SingleDeviceStrategy as Strategy
from torch.nn import Linear as Net
"""

SPEC = "{class_path: evil.%s}"
PLACES = {
    "data": ["--data", SPEC % "Data"],
    "data by name": ["--data.class_path", "evil.Data"],
    "data as a text": ["--data", "evil.Data"],
    "callback": ["--callbacks", f"[{SPEC % 'Callback'}]"],
    "callback as a text": ["--callbacks", "[evil.Callback]"],
    "appended callback": ["--callbacks.0.class_path", "evil.Callback"],
    "loss": ["--model.losses", f"[{SPEC % 'Loss'}]"],
    "loss as a text": ["--model.losses.0", "evil.Loss"],
    "one loss for the list": ["--model.losses", "evil.Loss"],
    "class of a loss": ["--model.losses.0.class_path", "evil.Loss"],
    "task": ["--model.task", SPEC % "Task"],
    "task of the data": ["--data.task", SPEC % "Task"],
    "student": ["--model.student", SPEC % "Net"],
    "teacher": ["--model.teacher.class_path", "evil.Net"],
    "teacher among several": ["--model.teacher", f"[{SPEC % 'Net'}]"],
    "schedule in a loss": ["--model.losses.0.weight", SPEC % "Schedule"],
    "schedule as a text": ["--model.losses.0.weight", "evil.Schedule"],
    "strategy": ["--trainer.strategy", SPEC % "Strategy"],
    "plugin": ["--trainer.plugins", f"[{SPEC % 'Plugin'}]"],
    "profiler": ["--trainer.profiler", SPEC % "Profiler"],
    "class inside a mapping of anything": ["--model.student", "{config: {model_type: {class_path: evil.Net}}}"],
    "JSON in a text": ["--model.losses", """['{"class_path": "evil.Loss"}']"""],
    "JSON in a text for a schedule": ["--model.losses.0.weight", """'{"class_path": "evil.Schedule"}'"""],
    "file named in a text": ["--model.losses", "[loss.yaml]"],
    "arguments of no class": ["--model.losses.0.dict_kwargs", "{x: {class_path: evil.Loss}}"],
    "module of an allowed package": ["--callbacks", "[torch.os.system]"],
    "class seen through our own module": ["--callbacks", "[distill.run.folder.shutil.rmtree]"],
    "function that loads code": ["--callbacks", "[torch.hub.load]"],
    "loader as a student": ["--model.student", "{class_path: torch.load, init_args: {f: x.pt}}"],
    "function that returns a module": [
        "--model.student",
        "{class_path: torch.fx.symbolic_trace, init_args: {root: x}}",
    ],
    "package inside the list of packages": ["--callbacks", "[torchevil.Callback]"],
}


@pytest.fixture
def evil(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported, and leaves a mark when it is."""
    folder = tmp_path / "evil_place"
    folder.mkdir()
    for name in ("evil", "torchevil"):
        (folder / f"{name}.py").write_text(EVIL)
    Path("loss.yaml").write_text("class_path: evil.Loss\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder / "imported"


@pytest.mark.parametrize("argv", PLACES.values(), ids=PLACES.keys())
def test_a_class_outside_the_allowed_is_refused_before_its_module_is_imported(
    argv: list[str], evil: Path, distill: Callable[..., Any]
) -> None:
    code, out, err = distill("fit", "-c", "base.yaml", *argv)
    assert code == 2
    assert err.count("distill: error: ") == 1
    assert "Traceback" not in out + err
    assert not evil.exists()
    assert "evil" not in sys.modules
    assert not Path("runs").exists()


COMMAND = "{class_path: distill.core.utils.files.os.system, init_args: {command: mkdir called}}"


@pytest.mark.parametrize(
    "argv",
    [
        ["--model.losses", f"[{COMMAND}]"],
        ["--model.losses.0.weight", COMMAND],
        ["--model.student", COMMAND],
        ["--model.teacher", COMMAND],
        ["--model.task", COMMAND],
        ["--data", COMMAND],
        ["--callbacks", f"[{COMMAND}]"],
        ["--trainer.strategy", COMMAND],
        ["--trainer.profiler", COMMAND],
    ],
    ids=lambda argv: argv[0],
)
def test_what_a_module_of_ours_has_imported_cannot_be_reached_through_it(
    argv: list[str], base: dict[str, Any], distill: Callable[..., Any]
) -> None:
    code, out, err = distill("fit", "-c", "base.yaml", *argv)
    assert code == 2
    assert "distill.core.utils.files.os.system" in err
    assert "Traceback" not in out + err
    assert not Path("called").exists()


def test_the_mark_is_left_where_the_module_is_allowed(evil: Path, distill: Callable[..., Any]) -> None:
    distill("fit", "-c", "base.yaml", "--allow", "evil", "--model.losses", "[evil.Loss]", "--seed", "-1")
    code, _, _ = distill("fit", "-c", "base.yaml", "--allow", "evil", "--model.losses", "[evil.Nope]")
    assert code == 2
    assert evil.exists()
    sys.modules.pop("evil", None)


@pytest.fixture
def mine(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of the user's in the current folder, which is not on the path."""
    Path("mine").mkdir()
    Path("mine/__init__.py").write_text("")
    Path("mine/losses.py").write_text(
        "from distill.losses import HintonKL\n"
        "class Mine(HintonKL):\n"
        "    'A loss.'\n"
        "    def __init__(self, size: int, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        assert size\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "mine.losses.Mine"
    for name in ("mine", "mine.losses"):
        sys.modules.pop(name, None)


def test_a_class_of_the_users_own_package_works_once_it_is_allowed(mine: str, distill: Callable[..., Any]) -> None:
    loss = f"[{{class_path: {mine}, init_args: {{size: 1, temperature: 3}}}}]"
    code, _, err = distill("fit", "-c", "base.yaml", "--model.losses", loss)
    assert code == 2
    assert "add --allow mine" in err
    code, _, err = distill("fit", "-c", "base.yaml", "--model.losses", loss, "--allow", "mine", "--id", "one")
    assert code == 0, err
    assert "class_path: mine.losses.Mine" in Path("runs/base/one/config.yaml").read_text()


def test_a_mistake_in_the_users_own_class_names_its_key(mine: str, distill: Callable[..., Any]) -> None:
    loss = f"[{{class_path: {mine}, init_args: {{size: big}}}}]"
    code, _, err = distill("fit", "-c", "base.yaml", "--model.losses", loss, "--allow", "mine")
    assert code == 2
    assert "model.losses.0.size = 'big': must be an integer" in err


def test_without_allow_the_current_folder_is_not_searched(mine: str, distill: Callable[..., Any]) -> None:
    before = list(sys.path)
    distill("fit", "-c", "base.yaml", "--seed", "-1")
    assert sys.path == before


@pytest.mark.parametrize("path", ["os.system", "mine2.X", "torch.hub.load", "torch.load", "a b", "", "..", 3, None])
def test_what_is_no_allowed_path_is_refused(path: Any) -> None:
    with pytest.raises(UserError):
        check_path(path, ["mine"], "key")


@pytest.mark.parametrize("path", ["HintonKL", "torch.nn.Linear", "distill.losses.HintonKL", "mine.X", "mine"])
def test_an_allowed_path_passes(path: str) -> None:
    check_path(path, ["mine"], "key")


def test_the_settings_of_jsonargparse_are_as_before_afterwards() -> None:
    from jsonargparse import _common

    before = dict(_common.parsing_settings)
    with only_allowed_imports(["yaml"]):
        assert _common.parsing_settings != before
    assert _common.parsing_settings == before
