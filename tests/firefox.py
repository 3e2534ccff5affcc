"""A page in a Firefox on a screen of its own, which WebGL wants, spoken to by Marionette, which it brings along."""

import base64
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

PATIENCE_S = 60
PREFERENCES = {
    "marionette.port": 0,  # any free one; it is told in the profile
    "ui.prefersReducedMotion": 1,
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}
KEYS = {"Tab": "\ue004", "ArrowLeft": "\ue012", "ArrowRight": "\ue014"}
COMPLAINTS = """return Services.console.getMessageArray()
    .filter((m) => m instanceof Ci.nsIScriptError && /html$|viewer/.test(m.sourceName.split('#')[0]))
    .map((m) => m.errorMessage)"""


class FirefoxPage:
    """One tab."""

    def __init__(self, program: str, xvfb: str, width: int, height: int) -> None:
        quiet = {"stderr": subprocess.DEVNULL}
        command = [xvfb, "-displayfd", "1", "-nolisten", "tcp", "-screen", "0", f"{width}x{height}x24"]
        self._screen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **quiet)
        assert self._screen.stdout is not None
        display = f":{self._screen.stdout.readline().strip()}"
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        Path(self._profile.name, "user.js").write_text("\n".join(lines))
        command = [program, "--no-remote", "--marionette", "--remote-allow-system-access"]
        command += ["--profile", self._profile.name, f"--width={width}", f"--height={height}"]
        environment = os.environ | {"DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1"}
        self._browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, **quiet)
        self._received, self._count = b"", 0

    def __enter__(self) -> "FirefoxPage":
        told = Path(self._profile.name, "MarionetteActivePort")
        deadline = time.monotonic() + PATIENCE_S
        while not (told.exists() and told.read_text().strip()):
            assert self._browser.poll() is None, "Firefox has gone"
            assert time.monotonic() < deadline, "Firefox did not start"
            time.sleep(0.1)
        self._socket = socket.create_connection(("127.0.0.1", int(told.read_text())), PATIENCE_S)
        self._next()
        self.call("WebDriver:NewSession")
        return self

    def __exit__(self, *_: TracebackType | type | BaseException | None) -> None:
        self._socket.close()
        for process in (self._browser, self._screen):
            process.terminate()
            process.wait(20)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of Marionette."""
        self._count += 1
        message = json.dumps([0, self._count, method, parameters])
        self._socket.sendall(f"{len(message)}:{message}".encode())
        _, number, error, result = self._next()
        assert number == self._count
        assert error is None, f"{method}: {error}"
        return result

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        return self.call("WebDriver:ExecuteScript", script=f"return {expression}", args=[])["value"]

    def wait_for(self, expression: str) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression} did not come true; the page said {self.complaints()}"
            time.sleep(0.1)

    def open(self, file: Path) -> None:
        """Load a file."""
        self.call("WebDriver:Navigate", url=file.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def complaints(self) -> list[str]:
        """What the page's scripts and policies have caused on the console."""
        return list(self._chrome(COMPLAINTS))

    def forget(self) -> None:
        """Empty the console."""
        self._chrome("Services.console.reset()")

    def screenshot(self) -> np.ndarray:
        """What there is to see, RGB ``[H, W, 3]`` uint8."""
        answer = self.call("WebDriver:TakeScreenshot", full=False)
        data = np.frombuffer(base64.b64decode(answer["value"]), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)

    def press(self, *keys: str) -> None:
        """Keys one after the other, each down and up."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("WebDriver:PerformActions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def _chrome(self, script: str) -> Any:
        """What a script gives that runs in the browser itself."""
        self.call("Marionette:SetContext", value="chrome")
        try:
            return self.call("WebDriver:ExecuteScript", script=script, args=[])["value"]
        finally:
            self.call("Marionette:SetContext", value="content")

    def _next(self) -> Any:
        while b":" not in self._received:
            self._receive()
        length, _, self._received = self._received.partition(b":")
        while len(self._received) < int(length):
            self._receive()
        message, self._received = self._received[: int(length)], self._received[int(length) :]
        return json.loads(message)

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        assert data, "Firefox has gone"
        self._received += data
