"""Processes that fork after a model was loaded: the child refuses, ends cleanly, and may load a model."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from paths import SCENE
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma, ProviderError

PROMPT = "caption en"
SENTENCE = "the model was loaded before this process was forked; call PaliGemma.load in the new process"
REQUESTS, WORKERS = 50, 4  # requests per way to start processes; four ways make 200 requests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*multi-threaded.*fork:DeprecationWarning"
    ),  # Python 3.12: the subject
]

FORK = """
import os, sys
from paligemma_onnx.runtime import PaliGemma
bundle, image, threads, use = sys.argv[1:]
model = PaliGemma.load(bundle, device="cpu", threads=int(threads))
stream = iter(model.stream(image, "caption en"))
next(stream)
if os.fork() == 0:
    for generate in (lambda: model.generate(image, "caption en"), lambda: next(stream)):
        try:
            generate() if use == "yes" else None
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    del model, stream
    sys.exit(0)
_, status = os.wait()
assert status == 0, status
print("".join(stream))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("use", ["yes", "no"])
def test_a_forked_child_refuses_and_ends(shipped_bundle: Path, threads: int, use: str) -> None:
    arguments = [sys.executable, "-c", FORK, str(shipped_bundle), str(SCENE), str(threads), use]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=HANG, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *refusals, rest = done.stdout.splitlines()
    assert refusals == 2 * (use == "yes") * [f"ProviderError {SENTENCE}"]
    assert rest.endswith("the word door")  # the parent's stream goes on


_model: PaliGemma | None = None


def load(bundle: Path) -> None:
    global _model  # noqa: PLW0603  the documented pattern for process pools
    _model = PaliGemma.load(bundle, device="cpu", threads=1)


def answer(_number: int) -> str:
    assert _model is not None
    try:
        return _model.generate(SCENE, PROMPT).text
    except ProviderError as error:
        return str(error)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_process_pools(shipped_bundle: Path, method: str) -> None:
    """A pool that loads the model in its initializer answers, also if the parent has a model."""
    load(shipped_bundle)
    expected = answer(0)
    context = multiprocessing.get_context(method)
    with context.Pool(WORKERS, load, (shipped_bundle,)) as pool:
        assert set(pool.map(answer, range(REQUESTS))) == {expected}
        pool.close()
        pool.join()
    if method == "fork":
        with context.Pool(WORKERS) as pool:
            assert set(pool.map(answer, range(REQUESTS))) == {SENTENCE}
            pool.close()
            pool.join()
        process = context.Process(target=answer, args=(0,))
        process.start()
        process.join(HANG)
        assert process.exitcode == 0
    assert answer(0) == expected


APP = """
import json, os
from paligemma_onnx.runtime import PaliGemma

def load():
    return PaliGemma.load(os.environ["BUNDLE"], device="cpu", threads=int(os.environ["THREADS"]))

model = load()

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    try:
        reply = {"answer": model.generate(os.environ["IMAGE"], "caption en").text}
    except Exception as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    return [json.dumps({**reply, "process": os.getpid()}).encode()]
"""
POST_FORK = """
def post_fork(server, worker):
    import app
    app.model = app.load()
"""


@pytest.mark.parametrize("hook", [True, False])
def test_gunicorn_with_preload(shipped_bundle: Path, tmp_path: Path, hook: bool) -> None:
    pytest.importorskip(
        "gunicorn", reason="gunicorn is not installed: `pip install -c constraints.txt .[dev]`"
    )
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "gunicorn.conf.py").write_text(POST_FORK if hook else "")
    environment = os.environ | {"BUNDLE": str(shipped_bundle), "IMAGE": str(SCENE), "THREADS": "2"}
    log = tmp_path / "log"
    command = (
        *(sys.executable, "-m", "gunicorn", "app:app", "--preload", "--workers", str(WORKERS)),
        *("--bind", "127.0.0.1:0", "--timeout", "120", "--graceful-timeout", str(round(HANG))),
    )
    with log.open("wb") as file:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=file)
    try:
        address = _address(log)
        with ThreadPoolExecutor(WORKERS) as threads:
            replies = list(threads.map(lambda _: _get(address), range(REQUESTS)))
        server.send_signal(signal.SIGTERM)
        assert server.wait(HANG) == 0
    finally:
        server.kill()
    if hook:
        expected = PaliGemma.load(shipped_bundle, device="cpu").generate(SCENE, PROMPT).text
        assert {reply.get("answer") for reply in replies} == {expected}
    else:
        assert {reply.get("error") for reply in replies} == {f"ProviderError: {SENTENCE}"}
    assert len({reply["process"] for reply in replies}) > 1
    text = log.read_text()
    assert "Traceback" not in text
    assert "SIG" not in text.replace("Handling signal: term", ""), text  # as in "was sent SIGSEGV!"
    assert text.count("Worker exiting") == WORKERS


def _address(log: Path) -> str:
    """Return the URL of the server as soon as all workers listen."""
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        lines = log.read_text().splitlines()
        urls = [word for line in lines if "Listening at" in line for word in line.split() if "http" in word]
        if urls and sum("Booting worker" in line for line in lines) == WORKERS:
            return urls[0]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _get(address: str) -> dict[str, str]:
    for _ in range(3):
        try:
            with urllib.request.urlopen(address, timeout=HANG) as reply:
                answered: dict[str, str] = json.load(reply)
                return answered
        except urllib.error.URLError:
            time.sleep(0.5)
    raise AssertionError(address)
