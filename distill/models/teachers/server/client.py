"""Requests to a server that may be busy, slow or gone for a while."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from distill.core.utils.errors import UserError
from distill.core.utils.secrets import mask

__all__ = ["Client", "Unanswered"]

_TRIES = 10
_FIRST_DELAY, _LONGEST_DELAY, _LONGEST_ASKED = 1.0, 60.0, 600.0
"""Seconds: of the first pause, which doubles, of the longest one, and of the longest that a server may ask for."""

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which the same request may succeed."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Unanswered(Exception):
    """A request that failed for good; the message says why, as a sentence.

    Args:
        problem: Why.
        status: Of the answer; 0 where there was none.
    """

    def __init__(self, problem: str, status: int = 0) -> None:
        super().__init__(problem)
        self.status = status


class Client:
    """Speaks JSON with one server; may be used by several threads.

    What a busy or broken connection has cost is tried again, after pauses that double and that ``Retry-After`` may
    lengthen. Redirects are not followed, so that the key goes to no other host.

    Args:
        url: ``http`` or ``https``, a host and a path; ``/v1`` where there is no path.
        api_key: Sent as a bearer token; hidden from now on in whatever the process says.
        requests_per_minute: At most, if given.

    Raises:
        UserError: if that is no such address.
    """

    def __init__(self, url: str, api_key: str | None = None, requests_per_minute: float | None = None) -> None:
        import httpx

        self.url, self._httpx = _address(url), httpx
        if api_key:
            mask({"api_key": api_key})
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(600, connect=15),
            limits=httpx.Limits(max_connections=None),
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,  # a proxy of the environment knows no loopback
        )
        self._closed = threading.Event()
        self._between = 60 / requests_per_minute if requests_per_minute else 0.0
        self._turn, self._next = threading.Lock(), 0.0

    def get(self, path: str, *, tries: int = _TRIES) -> Any:
        """The answer to a GET.

        Raises:
            Unanswered: if there is none.
        """
        return self._tried("GET", path, None, tries)

    def post(self, path: str, body: Mapping[str, Any], *, tries: int = _TRIES) -> Any:
        """The answer to a POST; as :meth:`get`."""
        return self._tried("POST", path, body, tries)

    def _tried(self, method: str, path: str, body: Mapping[str, Any] | None, tries: int) -> Any:
        delay = _FIRST_DELAY
        for left in range(tries - 1, -1, -1):
            self._take_turn()
            asked = 0.0
            try:
                answer = self._http.request(method, self.url + path, json=body)
            except (self._httpx.TransportError, RuntimeError) as error:  # the latter from one that was closed meanwhile
                problem, status = f"does not answer ({_said(error)})", 0
            else:
                if answer.is_success:
                    try:
                        return answer.json()
                    except (ValueError, RecursionError):
                        problem, status = "answers no JSON", answer.status_code
                else:
                    problem, status = _refusal(answer), answer.status_code
                    asked = _retry_after(answer.headers.get("Retry-After"))
                    if status not in _BUSY:
                        break
            if left and self._closed.wait(max(asked, delay * random.uniform(0.5, 1.0))):
                raise Unanswered("was no longer asked")
            delay = min(2 * delay, _LONGEST_DELAY)
        raise Unanswered(problem, status)

    def _take_turn(self) -> None:
        if not self._between:
            return
        with self._turn:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._between
        self._closed.wait(mine - now)

    def close(self) -> None:
        """End all requests that are under way."""
        self._closed.set()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(url: str) -> str:
    key, hint = "--from-server", "write it as http://HOST:PORT/v1"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UserError(f"is no address ({error})", key=key, value=url, hint=hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("must be an address of http or https", key=key, value=url, hint=hint)
    if parts.username or parts.password or parts.query or parts.fragment:
        problem = "must be a host and a path alone, without a name, a password or a query"
        hint = "put the key into an environment variable, and name that: --api-key-env NAME"
        raise UserError(problem, key=key, value=url, hint=hint)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))


def _refusal(answer: Any) -> str:
    """What an answer that is none says, in words."""
    if answer.is_redirect:
        host = urlsplit(answer.headers.get("Location", "")).netloc
        return f"redirects to {host or 'another path'}, which is not followed"
    text = answer.text
    try:
        found = json.loads(text)
        error = found.get("error", found) if isinstance(found, dict) else found
        text = str(error.get("message") or error.get("detail") or error) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError):
        pass
    said = " ".join(text.split())[:300]
    return f"answers {answer.status_code}{f': {said}' if said else ''}"


def _retry_after(header: str | None) -> float:
    """Seconds that a header ``Retry-After`` asks for: a number, or a date."""
    if header is None:
        return 0.0
    try:
        seconds = (
            float(header) if header.strip().isdecimal() else parsedate_to_datetime(header).timestamp() - time.time()
        )
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_ASKED)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
