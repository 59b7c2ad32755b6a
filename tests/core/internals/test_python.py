"""What we use of Python's own library beyond what it documents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_functions_for_the_end_are_run_once_the_last_first_and_folders_that_are_there_for_a_time_go(
    tmp_path: Path,
) -> None:
    code = f"""if True:
        import atexit, os, tempfile
        from distill.core.internals.python import run_exit_functions

        folder = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
        for name in ("first", "last"):
            atexit.register(print, name, flush=True)
        run_exit_functions()
        print(os.path.exists(folder.name))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["last", "first", "False"]
    assert not list(tmp_path.iterdir())
