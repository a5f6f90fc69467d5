"""A browser without a window, driven as https://www.w3.org/TR/webdriver2/ says: Debian's chromium and chromedriver."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STARTED = re.compile(r"started successfully on port (\d+)")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's reference, by the standard
# Nothing but the page is loaded.
_ARGUMENTS = ["--headless=new", "--disable-background-networking", "--no-first-run", "--hide-scrollbars"]


class Browser:
    """One tab.

    Args:
        port: That of chromedriver, on this machine.
        folder: Where the browser keeps its files.
    """

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        arguments = [*_ARGUMENTS, f"--user-data-dir={folder}"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # chromium's sandbox refuses root
        options = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        self._session = ""
        self._session = "/" + self._ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        about = json.dumps(body if body is not None else {}) if method == "POST" else None
        where = path if path == "/session" else f"/session{self._session}{path}"
        try:
            connection.request(method, where, about, {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{method} {path}: {value['error']}: {value['message']}")
        return value

    def open(self, address: str, *, width: int = 1280, height: int = 900) -> None:
        """Load a page, and wait until it is loaded."""
        self._ask("POST", "/window/rect", {"width": width, "height": height})
        self._ask("POST", "/url", {"url": address})

    def type(self, selector: str, text: str) -> None:
        """Empty a field and type a text into it."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._ask("POST", f"/element/{element}/clear")
        self._ask("POST", f"/element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on an element."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._ask("POST", f"/element/{element}/click")

    def run(self, script: str) -> Any:
        """What a function's body returns, in the page."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """End the browser."""
        self._ask("DELETE", "")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser, ended afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="hostnet-browser-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver,
    ):
        try:
            found = next(filter(None, map(_STARTED.search, driver.stdout or ())))
            tab = Browser(int(found[1]), Path(folder))
            try:
                yield tab
            finally:
                tab.close()
        finally:
            driver.terminate()
