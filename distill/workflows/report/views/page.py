"""The page itself: sections put into one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from distill.core.utils.errors import UserError
from distill.core.utils.files import write
from distill.core.utils.secrets import scrub
from distill.core.utils.visible import visible
from distill.workflows.report.schema import Report
from distill.workflows.report.views.blocks import Section

__all__ = ["page", "write_html"]


def page(report: Report, sections: Sequence[Section]) -> str:
    """The whole page. It loads nothing, and runs no script.

    Args:
        report: Of which it is; its verdict comes first.
        sections: Below that.
    """
    # Texts and names are others': each is escaped where it is written.
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown)
    template = environment.from_string(
        resources.files("distill.workflows.report.views").joinpath("page.html").read_text(encoding="utf-8")
    )
    runs = ", ".join(report.runs)
    heading = f"{report.samples.task}: {runs}"
    return template.render(title=f"{runs} · report", heading=heading, verdict=report.verdict, sections=sections)


def _shown(value: object) -> object:
    """What is written of a value: of a text that is no markup, no secret, and nothing that cannot be seen."""
    return scrub(visible(value)) if type(value) is str else value


def write_html(report: Report, sections: Sequence[Section], path: str | Path) -> None:
    """Write the page; a kill leaves the old file or the new one.

    Args:
        report: Likewise.
        sections: Likewise.
        path: Of the page.

    Raises:
        UserError: if it cannot be written.
    """
    content = page(report, sections).encode("utf-8", errors="replace")
    try:
        write(Path(path), content)
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError(problem, key="--html", value=str(path), hint="name a file in a folder that is there") from None
