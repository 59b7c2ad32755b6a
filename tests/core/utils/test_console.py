"""A console of ours ends as ``print`` does where nobody reads any more."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from distill.core.utils.console import plain_table, wide


class Closed(StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_table_that_nobody_reads_is_told_of_as_a_line_is() -> None:
    console = wide()
    console.file = Closed()
    with pytest.raises(BrokenPipeError):
        console.print(plain_table("a table"))


@pytest.mark.parametrize("words", [["list"], ["list", "losses"], ["runs", "."], ["--help"]])
def test_what_shows_something_ends_well_where_its_reader_has_gone(words: list[str], tmp_path: Path) -> None:
    code = "import sys; from distill.cli.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read() if process.stderr else "") == (0, "")
    if process.stderr:
        process.stderr.close()
