"""Whether a run can talk to W&B, decided before the first ``wandb.init``.

``wandb.init`` against a server that does not answer raises after many seconds only; a short question beforehand
spares the wait.
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from distill.core.utils.paths import at_home
from distill.core.utils.secrets import scrub

__all__ = ["Decision", "decide", "find_key", "sweep_run_id"]

DEFAULT_URL = "https://api.wandb.ai"
_QUERY = {"query": "query { viewer { id } }"}


class Decision(NamedTuple):
    """``online``, ``offline`` or ``disabled``, and why."""

    mode: Literal["online", "offline", "disabled"]
    reason: str


def decide(wanted: str | None = None, environment: Mapping[str, str] = os.environ, timeout: float = 3.0) -> Decision:
    """Choose the mode of W&B.

    Args:
        wanted: What the configuration says; the variable ``WANDB_MODE`` if it says nothing; else ``online``
            where a key and a server are there. ``online`` is a wish too: no server may stop a run.
        environment: Variables ``WANDB_MODE``, ``WANDB_BASE_URL``, ``WANDB_API_KEY``, ``NETRC``.
        timeout: Longest wait for the server, in seconds, whatever it does.
    """
    mode = wanted or environment.get("WANDB_MODE") or ""
    if mode == "disabled" or environment.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return Decision("disabled", "as asked")
    if mode in ("offline", "dryrun"):
        return Decision("offline", "as asked")
    url = (environment.get("WANDB_BASE_URL") or DEFAULT_URL).rstrip("/")
    key = find_key(url, environment)
    if key is None:
        return Decision("offline", "there is no API key in WANDB_API_KEY or netrc")
    problem = _probe(url, key, timeout)
    # The address may hold a password.
    return Decision("online", scrub(f"to {url}")) if problem is None else Decision("offline", scrub(f"{url} {problem}"))


def find_key(url: str, environment: Mapping[str, str]) -> str | None:
    """The API key for the server at ``url``: the environment's, else that of ``netrc``."""
    if environment.get("WANDB_API_KEY"):
        return environment["WANDB_API_KEY"]
    path = at_home(environment.get("NETRC") or "~/.netrc")
    try:
        found = netrc.netrc(str(path)).authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found and found[2] else None


def sweep_run_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The id that ``wandb agent`` has given the run it started this process for; ``None`` outside a sweep.

    Within a sweep W&B heeds no other id.
    """
    return environment.get("WANDB_RUN_ID") or None if environment.get("WANDB_SWEEP_ID") else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows none: the request carries the key, which is for one server only."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _probe(url: str, key: str, timeout: float) -> str | None:
    """What is wrong with the server at ``url``; ``None`` if it answers and knows the key."""
    answer: list[str | None] = []
    # In a thread, because a timeout of urllib covers neither the name's resolution nor a server that sends
    # one byte at a time.
    thread = threading.Thread(target=lambda: answer.append(_ask(url, key, timeout)), daemon=True)
    thread.start()
    thread.join(timeout)
    return answer[0] if answer else f"gave no answer within {timeout:g} s"


def _ask(url: str, key: str, timeout: float) -> str | None:
    credentials = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
    try:
        request = urllib.request.Request(f"{url}/graphql", json.dumps(_QUERY).encode(), headers)
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as response:
            viewer = json.loads(response.read(100_000))["data"]["viewer"]
    except urllib.error.HTTPError as error:
        return "does not accept the API key" if error.code in (401, 403) else f"answered with status {error.code}"
    except urllib.error.URLError as error:
        return f"cannot be reached ({error.reason})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"gave no proper answer ({type(error).__name__})"
    except Exception as error:  # whatever a proxy or a server comes up with, the run continues
        return f"cannot be asked ({type(error).__name__})"
    return None if viewer else "does not accept the API key"
