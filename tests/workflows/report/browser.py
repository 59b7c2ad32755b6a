"""A page in headless Chromium, spoken to through ChromeDriver by W3C WebDriver and its own commands."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

LACKING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
"""What is not installed of what :func:`browser` needs."""

_ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"),
)


class Browser:
    """One window.

    Args:
        client: That speaks to ChromeDriver's session.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        reply = self._client.post(path, json=body)
        assert reply.status_code == 200, reply.text[:500]
        return reply.json()["value"]

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self._post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def show(self, file: Path, width: int, dark: bool = False) -> None:
        """Open a file in a window so wide."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", media="", features=[scheme])
        self._post("/url", {"url": file.absolute().as_uri()})

    def run(self, script: str) -> Any:
        """What a script of the page returns."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """What the page has said since this was asked last."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        taken = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def pdf(self, file: Path) -> None:
        """The page as it is printed."""
        file.write_bytes(base64.b64decode(self.command("Page.printToPDF", printBackground=False)["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that ends with the block."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="browser-")
    options = {"binary": shutil.which("chromium"), "args": [*_ARGUMENTS, f"--user-data-dir={folder}"]}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], **quiet)  # type: ignore[call-overload]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            _wait(client)
            reply = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            assert reply.status_code == 200, reply.text[:500]
            client.base_url = client.base_url.join(f"/session/{reply.json()['value']['sessionId']}")
            try:
                yield Browser(client)
            finally:
                client.delete(str(client.base_url).rstrip("/"))  # with a slash behind it no session is meant
    finally:
        driver.terminate()
        driver.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(client: httpx.Client) -> None:
    for _ in range(300):
        try:
            client.get("/status")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("ChromeDriver does not answer")
