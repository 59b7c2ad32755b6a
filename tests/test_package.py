"""The promises of what is shipped."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGE = "distill/workflows/report/views/page.html"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of a copy of the repository as git would hand it out."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "source"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in names:
        target = copy / name
        if (ROOT / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                target.symlink_to(os.readlink(ROOT / name))
            else:
                target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)],
        check=True,
        capture_output=True,
    )
    return folder / "dist"


@pytest.mark.slow
def test_wheel_and_source_hold_callbacks_and_recipes_as_real_files(built: Path) -> None:
    wheel = zipfile.ZipFile(next(built.glob("*.whl")))
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        held = {member.name.split("/", 1)[-1] for member in source.getmembers() if member.isfile()}
    for name in ("distill/callbacks/determinism.py", "distill/recipes/quickstart/alone.yaml", "distill/py.typed", PAGE):
        assert len(wheel.read(name)) == (ROOT / name).stat().st_size
    assert {"callbacks/determinism.py", "configs/quickstart/alone.yaml"} <= held or {
        "distill/callbacks/determinism.py",
        "distill/recipes/quickstart/alone.yaml",
    } <= held


@pytest.mark.slow
def test_an_installed_wheel_trains_a_recipe_far_from_the_repository(built: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    wheel = next(built.glob("*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    overrides = [
        *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--data.train_samples", "4"),
        *("--data.pack_length", "64", "--data.batch_size", "2", "--model.student.config.num_hidden_layers", "1"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "distill.cli", "fit", "-c", "quickstart/alone", *overrides],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (work / "runs" / "quickstart-alone").iterdir()
    assert (run / "student" / "model.safetensors").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 2
    where = subprocess.run(
        [sys.executable, "-c", "import distill; print(distill.__file__)"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(site)), "the wheel's own package ran, not the repository's"
