"""The site is built without a warning and without the network, and every name and link in it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # A page that is not in the navigation, a link or an anchor that leads nowhere ends it. In a process of its own, as
    # people build it: what other tests have left in this one is no part of it.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_the_site_has_a_page_for_each_file_and_fetches_nothing(site: Path) -> None:
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert {path.parent.name for path in site.glob("*/index.html")} >= pages - {"index"}
    loaded = [
        found
        for page in site.rglob("*.html")
        for found in re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="(?:https?:)?//[^"]+', page.read_text()
        )
    ]
    assert loaded == []


def test_the_python_api_shows_arguments_and_no_markup_of_docstrings(site: Path) -> None:
    page = (site / "api/index.html").read_text()
    for name in ("HintonKL", "GradualMagnitudePruning", "WeightScheme", "Distillation", "UserError"):
        assert f'.{name}"' in page
    assert "final_sparsity" in page
    assert re.findall(r":(?:class|func|meth|attr|data):", page) == []


def names() -> list[str]:
    return [name for page in sorted(DOCS.glob("*.md")) for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)]


@pytest.mark.parametrize("name", names())
def test_a_name_of_the_python_api_is_there(name: str) -> None:
    module, _, last = name.rpartition(".")
    try:
        import_module(name)
    except ModuleNotFoundError:
        assert hasattr(import_module(module), last)


def anchors(page: Path) -> set[str]:
    """As GitHub and the site make them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md"))], ids=lambda page: page.name)
def test_links_of_the_pages_outside_of_the_site_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if file.startswith(("http:", "https:", "mailto:")):
            continue
        there = (page.parent / file) if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_the_readme_fits_on_two_screens_and_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert max(map(len, re.sub(r"^[|[].*$", "", text, flags=re.M).splitlines())) <= 130
    assert {"scripts/quickstart", "scripts/test"} <= set(re.findall(r"^scripts/\w+", text, re.M))


def test_the_architecture_has_a_place_for_every_room() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "distill").glob("*/__init__.py")} - {"callbacks"}
    assert {room for room in rooms if f"`distill/{room}/`" not in text} == set()
