"""What mkdocs does beside rendering: references in docstrings become the names that they mean."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):<code>~?(?:[\w.]*\.)?(\w+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """``:class:`~distill.core.task.Task` `` is shown as ``Task``."""
    return _ROLE.sub(r"<code>\1</code>", html)
