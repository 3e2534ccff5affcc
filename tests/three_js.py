"""three.js in a headless Chromium: pictures of a GLB file, fetched from a server on the loopback."""

import base64
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np

PAGE = Path(__file__).parent / "asset" / "external" / "three.html"
KINDS = {".html": "text/html", ".js": "text/javascript", ".glb": "model/gltf-binary"}


def draw(
    chromium: str, modules: Path, glb: bytes, *, size: int, fov: float, eye: Sequence[float], time: float
) -> np.ndarray:
    """What three.js shows at a time of the motion, on black, without light, RGB ``[S, S, 3]`` uint8.

    Args:
        chromium: The program.
        modules: Folder that holds ``three``.
        glb: The file.
        size: Of the picture [px].
        fov: Vertical field of view [degrees].
        eye: Place of the camera, which looks along -z.
        time: In the motion [s].
    """
    answers: list[bytes] = []
    answered = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            file = PAGE if path == "/" else modules / path.removeprefix("/modules/")
            data = glb if path == "/avatar.glb" else file.read_bytes() if file.is_file() else None
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", KINDS.get(file.suffix, "application/octet-stream"))
            self.end_headers()
            self.wfile.write(data or b"")

        def do_POST(self) -> None:
            answers.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            answered.set()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = {"width": size, "height": size, "fov": fov, "eye": ",".join(map(str, eye)), "time": time}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
        options += ["--enable-unsafe-swiftshader", f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        address = f"http://127.0.0.1:{server.server_port}/?{urlencode(asked)}"
        browser = subprocess.Popen([chromium, *options, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert answered.wait(90), "Chromium drew nothing within 90 seconds"
        finally:
            browser.terminate()
            browser.wait(20)
            server.shutdown()
            server.server_close()
    head, _, data = answers[0].partition(b"base64,")
    assert head.startswith(b"data:image/png"), answers[0].decode()
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
