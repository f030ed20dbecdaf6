"""Requests that are stopped by Ctrl-C, by a closed pipe or by another thread; and concurrent requests."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from command_line import run_command, start_command
from damage import copy_folder, disable_stop_ids, edit_manifest
from PIL import Image
from time_limits import HANG

from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
SAMPLED = ("--temperature", "1", "--seed", "1")


@pytest.fixture(scope="module")
def talkative(bundle: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose answers end only with the context."""
    folder = copy_folder(bundle(CASE), tmp_path_factory.mktemp("talkative") / "bundle")
    edit_manifest(folder, disable_stop_ids)
    return folder


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(IMAGE).save(path)
    return path


@pytest.fixture(scope="module")
def model(talkative: Path) -> PaliGemma:
    return PaliGemma.load(talkative, device="cpu")


def command(bundle: Path, image_file: Path, *options: str) -> tuple[str, ...]:
    return ("generate", "--model", str(bundle), "--image", str(image_file), "caption en", *SAMPLED, *options)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_was_written(
    talkative: Path, image_file: Path, number: signal.Signals, code: int
) -> None:
    process = start_command(*command(talkative, image_file, "--max-new-tokens", "8000"))
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(number)
    following, err = process.communicate(timeout=HANG)
    assert process.returncode == code
    text = (first + following).decode()
    assert text.endswith("\n")
    assert 1 < len(text) < 10_000  # a complete answer is twice as long
    assert err == b""


def test_a_signal_leaves_one_json_object(talkative: Path, image_file: Path) -> None:
    before = """
import os, signal
from paligemma_onnx.runtime.graphs import onnx_runner as graphs
original = graphs.OnnxModelRunner.decode
def decode(self, ids, cache, cancel):
    if cache.lengths[0] == 50:
        os.kill(os.getpid(), signal.SIGINT)
    return original(self, ids, cache, cancel)
graphs.OnnxModelRunner.decode = decode
"""
    ended = run_command(*command(talkative, image_file, "--json", "--max-new-tokens", "8000"), before=before)
    assert ended.code == 130
    answer = json.loads(ended.out)
    assert answer["finish_reason"] == "cancelled"
    prefix = answer["prompt_tokens"] + answer["image_tokens"]
    # The signal arrived in the step with 50 tokens in the cache. The main thread handles it while another
    # thread computes, so a few of these steps of 0.3 ms may pass.
    assert 50 - prefix <= len(answer["token_ids"]) < 8000 // 4


def test_a_signal_at_the_end_of_the_answer(talkative: Path, image_file: Path) -> None:
    """The signal arrives when the queue has removed the end of the answer and not yet returned it."""
    before = """
import os, queue, signal, threading
class Queue(queue.SimpleQueue):
    def get(self, *arguments, **named):
        item = super().get(*arguments, **named)
        if item is None and threading.current_thread() is threading.main_thread():
            os.kill(os.getpid(), signal.SIGINT)
        return item
queue.SimpleQueue = Queue
"""
    whole = run_command(*command(talkative, image_file, "--max-new-tokens", "5"))
    ended = run_command(*command(talkative, image_file, "--max-new-tokens", "5"), before=before)
    assert (ended.code, ended.out, ended.err) == (130, whole.out, "")


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_a_detection(
    talkative: Path, image_file: Path, tmp_path: Path, number: str, code: int
) -> None:
    """Within one step, and no image is written."""
    before = f"""
import os, signal
from paligemma_onnx.runtime.graphs import onnx_runner as graphs
original = graphs.OnnxModelRunner.decode
def decode(self, ids, cache, cancel):
    if cache.lengths[0] == 50:
        os.kill(os.getpid(), signal.{number})
    assert cache.lengths[0] < 4000
    return original(self, ids, cache, cancel)
graphs.OnnxModelRunner.decode = decode
"""
    arguments = ("detect", "--model", str(talkative), "--image", str(image_file), *SAMPLED, "cat")
    drawn = ("--draw", str(tmp_path / "drawn.png"), "--max-new-tokens", "8000")
    ended = run_command(*arguments, *drawn, before=before)
    assert (ended.code, ended.out, ended.err) == (code, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_ends_quietly(talkative: Path, image_file: Path) -> None:
    with start_command(*command(talkative, image_file, "--max-new-tokens", "8000")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=HANG) == 0


def test_stdout_closed_from_the_start(bundle: Folders, image_file: Path) -> None:
    process = start_command(*command(bundle(CASE), image_file), preexec_fn=lambda: os.close(1))
    assert process.communicate(timeout=HANG)[1] == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_stdout_on_a_full_disk(bundle: Folders, image_file: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start_command(*command(bundle(CASE), image_file, "--max-new-tokens", "5"), stdout=full)
        err = process.communicate(timeout=HANG)[1].decode()
    assert process.returncode == 5
    assert err.startswith("error: stdout: the disk")
    assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_short(bundle: Folders, image_file: Path) -> None:
    """Attention over 6000 tokens needs more memory than the process may use."""
    before = """
import resource
from pathlib import Path
from paligemma_onnx.runtime import PaliGemma
original = PaliGemma.load
def load(*arguments, **named):
    model = original(*arguments, **named)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (200 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return model
PaliGemma.load = load
"""
    arguments = ("generate", "--model", str(bundle(CASE)), "--image", str(image_file), "7" * 6000)
    ended = run_command(*arguments, before=before)
    assert ended.code == 5
    assert ended.out == ""
    assert "prefill.onnx: out of memory" in ended.error
    assert "MB more are needed" in ended.error


@pytest.mark.parametrize("stage", ["vision", "prefill", "decode"])
def test_cancelled_within_a_run(model: PaliGemma, stage: str) -> None:
    """Each of the three graphs is terminated while it runs, and the model can be used afterwards."""
    cancel, name = Cancellation(), f"{stage}_session"
    session = getattr(model.runner, name)

    class Waiting:
        """A session that runs until it is terminated."""

        io_binding = session.io_binding

        def run_with_iobinding(self, _: Any, options: Any) -> None:
            threading.Timer(0.05, cancel.cancel).start()
            while not options.terminate:  # pytest ends a test that hangs
                time.sleep(0.001)
            raise RuntimeError("Exiting due to terminate flag being set to true.")

    runner = replace(cast("OnnxModelRunner", model.runner), **{name: cast("Any", Waiting())})
    waiting = PaliGemma(model.manifest, model.tokenizer, runner, 0.0)
    started = time.monotonic()
    answer = waiting.generate(IMAGE, "caption en", cancel=cancel)
    assert time.monotonic() - started < 5
    assert answer.finish_reason == "cancelled"
    assert len(answer.token_ids) == (1 if stage == "decode" else 0)
    assert len(model.generate(IMAGE, "caption en", max_new_tokens=3).token_ids) == 3


@pytest.mark.slow
def test_the_engine_obeys_in_the_middle_of_a_run(model: PaliGemma) -> None:
    """Attention over 5000 tokens takes long enough to be stopped midway."""
    prompt = "7" * 5000

    def timed(delay: float | None) -> tuple[float, str, int]:
        cancel = Cancellation()
        if delay is not None:
            threading.Timer(delay, cancel.cancel).start()
        started = time.monotonic()
        answer = model.generate(IMAGE, prompt, cancel=cancel, max_new_tokens=1)
        return time.monotonic() - started, answer.finish_reason, len(answer.token_ids)

    # Other processes may slow down some of the runs: the shortest run determines when to stop, the longest
    # is the time that must not be reached.
    runs = [timed(None) for _ in range(3)]
    assert {(reason, count) for _, reason, count in runs} == {("length", 1)}
    seconds, reason, count = timed(min(runs)[0] / 8)
    assert (reason, count) == ("cancelled", 0)
    assert seconds < 0.9 * max(runs)[0]


def test_cancelled_within_one_token(model: PaliGemma) -> None:
    cancel = Cancellation()
    stream = model.stream(IMAGE, "caption en", cancel=cancel, temperature=1.0, seed=1, max_new_tokens=8000)
    lengths: list[int] = []

    def watch() -> None:
        while len(stream.result.token_ids) < 20:
            time.sleep(0.0005)
        cancel.cancel()
        lengths.append(len(stream.result.token_ids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    text = "".join(stream)
    watcher.join()
    assert stream.result.finish_reason == "cancelled"
    assert lengths[0] <= len(stream.result.token_ids) + 1
    assert len(stream.result.token_ids) <= lengths[0] + 1
    assert text == stream.result.text


def test_cancelled_before_it_begins(model: PaliGemma) -> None:
    cancel = Cancellation()
    cancel.cancel()
    answer = model.generate(IMAGE, "caption en", cancel=cancel)
    assert (answer.finish_reason, answer.token_ids, answer.text) == ("cancelled", (), "")


def test_a_stream_left_in_the_middle(model: PaliGemma) -> None:
    whole = model.generate(IMAGE, "caption en", max_new_tokens=12)
    stream = model.stream(IMAGE, "caption en", max_new_tokens=12)
    pieces = iter(stream)
    start = next(pieces) + next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert whole.text.startswith(start)
    assert stream.result.finish_reason == "cancelled"
    assert len(stream.result.token_ids) < 12
    again = model.generate(IMAGE, "caption en", max_new_tokens=12)
    assert (again.text, again.token_ids) == (whole.text, whole.token_ids)


def test_threads_that_ask_one_model(model: PaliGemma) -> None:
    """Each thread gets the same answers as a single request."""

    def ask(seed: int) -> tuple[int, ...]:
        prompt = "answer en " + "why " * seed
        return model.generate(
            IMAGE[:, : 50 - seed], prompt, temperature=1.0, seed=seed, max_new_tokens=60
        ).token_ids

    alone = [ask(seed) for seed in range(6)]
    assert len(set(alone)) == 6
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(ask, range(6)))
    assert together == alone


def test_one_switch_stops_several_requests(model: PaliGemma) -> None:
    cancel = Cancellation()

    def ask(seed: int) -> str:
        return model.generate(
            IMAGE, "caption en", temperature=1.0, seed=seed, max_new_tokens=8000, cancel=cancel
        ).finish_reason

    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(ask, seed) for seed in range(2)]
        time.sleep(0.2)
        cancel.cancel()
        assert [answer.result(timeout=HANG) for answer in waiting] == ["cancelled", "cancelled"]
