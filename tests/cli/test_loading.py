"""Nobody waits in silence for what a command imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAID = "distill: loading torch, transformers and Lightning ...\n"


@pytest.mark.parametrize(
    ("code", "rank", "heard"),
    [
        ("import json, torch, torch", "0", SAID + "torch itself\n"),
        ("import json", "0", ""),
        ("import torch", "1", "torch itself\n"),
    ],
)
def test_a_command_says_that_it_loads_torch_before_it_does(tmp_path: Path, code: str, rank: str, heard: str) -> None:
    (tmp_path / "torch.py").write_text("import sys; print('torch itself', file=sys.stderr)\n")
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); finders = [*sys.meta_path]"
    block = f"from distill.cli.loading import saying_what_loads\nwith saying_what_loads():\n    {code}\n"
    after = "assert sys.meta_path == finders, sys.meta_path"
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{block}{after}"],
        env={**os.environ, "LOCAL_RANK": rank},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", heard)


def test_the_command_itself_does_so(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit(7)\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from distill.cli.main import main; main(['validate', '.'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", SAID)
