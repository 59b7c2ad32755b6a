"""Whether the hub of models and data sets can be reached, found out once and at once.

Its client tries five times with growing pauses and says so each time: most of a minute for every file, where a machine
without a network is the usual case.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

__all__ = ["settle"]


@cache
def settle() -> None:
    """Have the hub's client take what it has kept, and ask nobody, where the hub's name leads nowhere."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or getproxies() or host is None:
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that this one starts
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
