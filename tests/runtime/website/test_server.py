"""The server of `web --serve`: its headers, types and ranges, and no file but those of the site."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from command_line import start_command
from paths import ROOT
from time_limits import HANG

from paligemma_onnx.runtime.errors import OptionError
from paligemma_onnx.runtime.website.headers import HEADERS
from paligemma_onnx.runtime.website.server import byte_range, open_server
from paligemma_onnx.runtime.website.site import PAGE

CONTENT = {
    "index.html": b"<!doctype html>",
    "main.js": b"1;",
    "style.css": b"",
    "icon.svg": b"<svg/>",
    "manifest.webmanifest": b"{}",
    "ort/ort.wasm.min.mjs": b"export {}",
    "ort/ort.wasm": b"\0asm",
    "bundle/manifest.json": b"{}",
    "bundle/decoder.data": bytes(range(256)) * 4096,
}
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "manifest.webmanifest": "application/manifest+json",
    "ort/ort.wasm.min.mjs": "text/javascript; charset=utf-8",
    "ort/ort.wasm": "application/wasm",
    "bundle/manifest.json": "application/json",
    "bundle/decoder.data": "application/octet-stream",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' https: http://localhost:* http://127.0.0.1:*; worker-src 'self'; "
    "media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server that runs in a thread."""
    files = {name: tmp_path / "site" / name for name in CONTENT}
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT[name])
    (tmp_path / "site" / "unlisted.txt").write_text("private")
    (tmp_path / "secret.txt").write_text("private")
    with open_server(files, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def connection(port: int) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=HANG)) as opened:
        yield opened


def get(
    connection: HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[HTTPResponse, bytes]:
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize("name", CONTENT)
def test_files(connection: HTTPConnection, name: str) -> None:
    for method, expected in (("GET", CONTENT[name]), ("HEAD", b"")):
        response, body = get(connection, f"/{name}?v=1", method)
        assert (response.status, body) == (200, expected)
        assert response.headers["Content-Length"] == str(len(CONTENT[name]))
        assert response.headers["Content-Type"] == TYPES[name]
        assert {key: response.headers[key] for key in HEADERS} == HEADERS
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert response.headers["Content-Security-Policy"] == POLICY
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_headers_for_nginx() -> None:
    page = (ROOT / "docs" / "web.md").read_text(encoding="utf-8")
    assert dict(re.findall(r'^    add_header (\S+) "(.*)" always;$', page, re.MULTILINE)) == HEADERS


def test_the_page_states_the_policy() -> None:
    """Some hosts send no headers. Browsers take `frame-ancestors` from a header only."""
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="(.*)"', page)
    assert f"{policy}; frame-ancestors 'none'" == HEADERS["Content-Security-Policy"]
    assert page.index(policy) < page.index("<script")


def test_the_root_is_the_page(connection: HTTPConnection) -> None:
    assert get(connection, "/")[1] == CONTENT["index.html"]


@pytest.mark.parametrize(
    "path",
    [
        "/bundle",
        "/bundle/",
        "/unlisted.txt",
        "/../secret.txt",
        "/bundle/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%00",
        "//etc/passwd",
    ],
)
def test_other_paths_are_not_found(connection: HTTPConnection, path: str) -> None:
    """No folders, no files that the site does not list; and an error has the headers, too."""
    response, body = get(connection, path)
    assert response.status == 404
    assert b"private" not in body
    assert {key: response.headers[key] for key in HEADERS} == HEADERS


def test_other_hosts_and_methods_are_refused(connection: HTTPConnection, port: int) -> None:
    """The page of another site can give its name the address 127.0.0.1."""
    assert get(connection, "/", Host="attacker.example")[0].status == 421
    assert get(connection, "/", Host=f"localhost:{port}")[0].status == 200
    assert get(connection, "/", "POST")[0].status == 501


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000000-", 1_000_000, 1 << 20),
        ("bytes=1000000-9999999999", 1_000_000, 1 << 20),
        ("bytes=-5", (1 << 20) - 5, 1 << 20),
        ("bytes=-9999999999", 0, 1 << 20),
    ],
)
def test_ranges(connection: HTTPConnection, header: str, start: int, stop: int) -> None:
    content = CONTENT["bundle/decoder.data"]
    response, body = get(connection, "/bundle/decoder.data", Range=header)
    assert body == content[start:stop]
    if len(body) < len(content):
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(content)}"


def test_ranges_outside_the_file_and_ranges_that_are_none(connection: HTTPConnection) -> None:
    for header in ("bytes=4-", "bytes=9-12", "bytes=-0"):
        response, body = get(connection, "/ort/ort.wasm", Range=header)
        assert (response.status, body, response.headers["Content-Range"]) == (416, b"", "bytes */4")
    for header in ("bytes=2-1", "bytes=-", "bytes=0-1,3-3", "lines=1-2", f"bytes={'9' * 5000}-"):
        response, body = get(connection, "/ort/ort.wasm", Range=header)
        assert (response.status, body) == (200, CONTENT["ort/ort.wasm"])
    assert byte_range("bytes=0-", 0) is None


def test_requests_are_answered_while_another_is_unfinished(connection: HTTPConnection, port: int) -> None:
    connection.request("GET", "/bundle/decoder.data")  # the answer is not read yet
    with closing(HTTPConnection("127.0.0.1", port, timeout=HANG)) as other:
        assert get(other, "/main.js")[1] == CONTENT["main.js"]
    assert connection.getresponse().read() == CONTENT["bundle/decoder.data"]


def test_a_file_that_was_removed(
    connection: HTTPConnection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site" / "main.js").unlink()
    assert get(connection, "/main.js")[0].status == 500
    assert "main.js: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_a_port_in_use(port: int) -> None:
    with pytest.raises(OptionError, match=f"port {port} cannot be used .* choose another --port"):
        open_server({}, port)


@pytest.mark.slow
@pytest.mark.parametrize("written", [True, False])
def test_the_command_serves_until_it_is_interrupted(
    shipped_bundle: Path, packages: Path, tmp_path: Path, written: bool
) -> None:
    """With --output the written website is served, else the files where they lie. No request is logged."""
    output = ("--output", str(tmp_path / "site")) if written else ()
    arguments = ("web", str(shipped_bundle), "--packages", str(packages), "--serve", "--port", "0", *output)
    process = start_command(*arguments)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    url = next(line.decode().strip() for line in lines if line.startswith(b"http"))
    assert urlsplit(url).hostname == "127.0.0.1"
    for path in (PAGE / "index.html", shipped_bundle / "manifest.json"):
        address = url if path.name == "index.html" else f"{url}bundle/{path.name}"
        with urlopen(address, timeout=HANG) as response:
            assert response.read() == path.read_bytes()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 130
    lines_left = [line for line in err.decode().splitlines() if not line.startswith("checking ")]
    assert lines_left == ["Ctrl-C ends the server"]
    assert (tmp_path / "site").exists() == written
