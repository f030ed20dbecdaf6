"""A local web server for a website, with the headers that the page needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from ..console import echo_stderr
from ..errors import OptionError
from .headers import HEADERS
from .site import INDEX

HOST = "127.0.0.1"
# Host names under which the server answers. The page of another site can give its name the address
# 127.0.0.1 (DNS rebinding) and could read the bundle otherwise.
HOSTS = (HOST, "localhost")
# The system's table of types may lack these or differ.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def open_server(files: Mapping[str, Path], port: int) -> ThreadingHTTPServer:
    """Return a server of files, which answers each connection in a thread.

    Args:
        files: the files by their path in the site. All other paths are not found.
        port: TCP port on 127.0.0.1; 0: any free port.

    Raises:
        OptionError: the port cannot be used.
    """
    try:
        return _Server((HOST, port), partial(_Handler, files=files))
    except OSError as error:
        raise OptionError(
            f"port {port} cannot be used ({error.strerror}); choose another --port, or 0 for any free port"
        ) from None


def byte_range(header: str | None, size: int) -> range | None:
    """Return the bytes of a file that a `Range` header requests, or None if the file has none of them.

    Without a header, and for a header that is not one range of bytes, return all bytes (RFC 9110, 14.2).
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return range(size)
    if not match[1]:  # the last bytes
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2] or size) + 1)
        if match[2] and int(match[2]) < start:
            return range(size)
    return range(start, stop) if start < stop else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error of a thread, unless the browser closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "paligemma-onnx"
    sys_version = ""

    def __init__(self, *arguments: Any, files: Mapping[str, Path]) -> None:
        self._files = files
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Send a file or a range of its bytes."""
        self._send_file(with_body=True)

    def do_HEAD(self) -> None:
        """Send the headers of a file."""
        self._send_file(with_body=False)

    def end_headers(self) -> None:
        """Add the headers of every response, errors included."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _send_file(self, *, with_body: bool) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in HOSTS:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        name = unquote(self.path.partition("?")[0]).removeprefix("/") or INDEX
        if name not in self._files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            file = self._files[name].open("rb")
        except OSError as error:
            echo_stderr(f"{self._files[name]}: cannot be read ({error.strerror})")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        with file:
            size = file.seek(0, 2)
            requested = byte_range(self.headers["Range"], size)
            if requested is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            partial_content = len(requested) < size
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial_content else HTTPStatus.OK)
            if partial_content:
                self.send_header("Content-Range", f"bytes {requested[0]}-{requested[-1]}/{size}")
            self.send_header(
                "Content-Type", TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
            )
            self.send_header("Content-Length", str(len(requested)))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if with_body and requested:
                self.connection.sendfile(file, requested.start, len(requested))
