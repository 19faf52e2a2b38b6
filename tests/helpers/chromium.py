"""A headless Chromium that tests drive over a pipe by the DevTools protocol, without any further package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

from machines import PATIENCE

PROGRAM = shutil.which("chromium")

OPTIONS = (
    "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip

LONGEST_WAIT = 30 * PATIENCE
"""Seconds after which an answer or a condition is no longer waited for."""


class Chromium:
    """A browser with one page; to be used in a `with` statement.

    Attributes:
        problems: errors and warnings of the console, and errors that nothing caught.
        requests: addresses that the page asked for.
    """

    def __init__(self, profile: Path, width: int, height: int) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._number, self._rest = 0, b""
        ours, theirs = os.pipe(), os.pipe()
        self._out, self._in = ours[1], theirs[0]

        def arrange() -> None:
            for source, target in ((os.dup(ours[0]), 3), (os.dup(theirs[1]), 4)):
                os.dup2(source, target)

        self._process = subprocess.Popen(
            [PROGRAM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=arrange, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        target = self._call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(timeout=LONGEST_WAIT)
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **values) -> dict:
        """Call a method of the protocol on the page."""
        return self._call(method, values, self._session)

    def _call(self, method: str, values: dict, session: str | None) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _read(self) -> dict:
        deadline = time.monotonic() + LONGEST_WAIT
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            received = os.read(self._in, 1 << 20)
            assert received, "the browser has ended"
            self._rest += received
        message, self._rest = self._rest.split(b"\0", 1)
        content = json.loads(message)
        self._note(content.get("method"), content.get("params", {}))
        return content

    def _note(self, method: str | None, values: dict) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "assert"):
            self.problems.append(str([part.get("value", part.get("description")) for part in values["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(values["exceptionDetails"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.problems.append(values["entry"]["text"])

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path: Path) -> None:
        """Open a file."""
        self.call("Page.navigate", url=path.resolve().as_uri())

    def ask(self, expression: str):
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + LONGEST_WAIT
        while not self.ask(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.1)

    def mouse(self, kind: str, x: float, y: float, **values) -> None:
        """Send an event of the mouse, at a place of the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **values)

    def click(self, x: float, y: float) -> None:
        """Click somewhere in the window."""
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        more = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self) -> bytes:
        """Return a picture (PNG) of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
