#!/usr/bin/env python
"""Draw the picture of ``docs/report.md``: a part of the page that ``distill report RUN --html FILE`` has written.

    python scripts/report_picture.py report.html [--section explained] [--out docs/report.png]

It needs Chromium (``apt-get install chromium``); what it draws is what a browser shows from the section's heading on.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--section", default="explained", help="the id of the first section to be seen (%(default)s)")
    parser.add_argument("--size", default="1000,720", help="of the picture, in pixels (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/report.png"))
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("report_picture: error: no Chromium was found: apt-get install chromium")
    text = arguments.page.read_text(encoding="utf-8")
    place = text.find(f'<section id="{arguments.section}"')
    if place < 0:
        sys.exit(f"report_picture: error: the page has no section {arguments.section!r}")
    head = text[: text.index("<body>")]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part.html")
        part.write_text(f"{head}<body><main>{text[place:]}", encoding="utf-8")
        taken = f"--screenshot={arguments.out.absolute()}"
        given = (f"--user-data-dir={folder}/user", f"--window-size={arguments.size}", taken, part.as_uri())
        subprocess.run([browser, *ARGUMENTS, *given], check=True, stderr=subprocess.DEVNULL)
    print(arguments.out)


if __name__ == "__main__":
    main()
