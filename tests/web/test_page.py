"""The page in headless Chromium: load, ask, draw, stop, offline, and messages about what is wrong."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import copy_folder, edit_json, flip_bit
from paths import ROOT, SCENE
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from web_driver import run_parity

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.website.server import open_server
from paligemma_onnx.runtime.website.site import site_files, write_site

pytestmark = pytest.mark.web

PAGE = ROOT / "runtime" / "website" / "page"
WEB = ROOT / "web"
QUESTION, LABELS, OBJECT = "what colour is the square?", "green circle ; square", "purple star"
PROMPTS = [
    ("caption", "en"),
    ("answer", QUESTION),
    ("detect", LABELS),
    ("segment", OBJECT),
    ("free", f"answer en {QUESTION}"),
]


def test_the_built_page_is_current(tmp_path: Path) -> None:
    """`npm run build` was run after the last change of web/."""
    subprocess.run(["node", "build_page.mjs", str(tmp_path)], cwd=WEB, check=True)
    built = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert built == {file.name: file.read_bytes() for file in PAGE.iterdir()}


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    """Run a server and yield its address."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve a folder as a server without settings does."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def damaged_bundles(bundle: Path, scratch: Path) -> dict[str, Path]:
    """Return the files of damaged copies of a bundle, by their paths in a site."""
    cut, altered, incomplete, other = (
        copy_folder(bundle, scratch / name) for name in ("cut", "altered", "incomplete", "other")
    )
    (cut / "decoder.data").write_bytes((bundle / "decoder.data").read_bytes()[:-1])
    flip_bit(altered / "vision_encoder.onnx")
    (incomplete / "prefill.onnx").unlink()
    edit_json(other / "manifest.json", lambda manifest: manifest.update(schema_version=99))
    folders = (cut, altered, incomplete, other)
    return {f"{folder.name}/{path.name}": path for folder in folders for path in folder.iterdir()}


def broken_gpu(scratch: Path) -> dict[str, Path]:
    """Return files of a site whose worker finds a GPU, and whose onnxruntime opens no graph on it."""
    worker, runtime = scratch / "worker.js", scratch / "ort.webgpu.min.mjs"
    adapter = "Object.defineProperty(navigator, 'gpu', {value: {requestAdapter: async () => ({info: {}})}});"
    worker.write_text(adapter + (PAGE / "worker.js").read_text(encoding="utf-8"), encoding="utf-8")
    runtime.write_text(
        "export const env = {versions: {web: '1.30.0'}, wasm: {}};"
        "export class InferenceSession { static async create() { throw new Error('the device is lost') } }"
    )
    return {"worker.js": worker, "ort/ort.webgpu.min.mjs": runtime}


def turned_images(scratch: Path) -> list[Path]:
    """Write an image in each orientation, which XMP states. No browser reads it there."""
    image = Image.fromarray(np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4))
    paths = [scratch / f"turned-{orientation}.png" for orientation in range(1, 9)]
    for orientation, path in enumerate(paths, 1):
        metadata = PngInfo()
        metadata.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>')
        image.save(path, pnginfo=metadata)
    return paths


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return turned_images(tmp_path_factory.mktemp("turned"))


@pytest.fixture(scope="module")
def shown(
    shipped_bundle: Path, turned: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return what the page shows while a person uses it; web/tests/parity/page_use.ts is the person."""
    scratch = tmp_path_factory.mktemp("page")
    broken = scratch / "broken.png"
    broken.write_text("not an image")
    site = site_files(shipped_bundle, WEB, print)
    write_site(site, scratch / "site", force=False)
    without_headers = partial(QuietHandler, directory=str(scratch / "site"))
    with (
        running(open_server(site | damaged_bundles(shipped_bundle, scratch), 0)) as address,
        running(ThreadingHTTPServer(("127.0.0.1", 0), without_headers)) as plain,
        running(open_server(site | broken_gpu(scratch), 0)) as without_gpu,
    ):
        job = {
            "url": address,
            "plainUrl": plain,
            "gpuUrl": without_gpu,
            "prompts": PROMPTS,
            "image": str(SCENE),
            "broken": str(broken),
            "other": str(turned[0]),
            "turned": [str(path) for path in turned],
            "damaged": ["cut/", "altered/", "incomplete/", "other/", "nowhere/", "http://["],
            "files": [str(path) for path in sorted(shipped_bundle.iterdir())],
            "screenshots": None,
        }
        result: dict[str, Any] = run_parity("page_use", job, scratch)
    return result


@pytest.fixture(scope="module")
def model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu", threads=1)


def test_the_page_loads_a_bundle(shown: dict[str, Any]) -> None:
    assert shown["errors"] == []
    assert "WebAssembly can use threads" in shown["environment"]
    loaded = r"PaliGemma \(\d\.\d million parameters, fp32\) from {} is ready on the CPU"
    ready = loaded + r" with \d threads? after \d+\.\d s\."
    assert re.fullmatch(ready.format("bundle/"), shown["status"])
    assert re.fullmatch(ready.format("the chosen files"), shown["local"])


def test_answers_of_all_kinds(shown: dict[str, Any], model: PaliGemma) -> None:
    """Texts, boxes and scores are those of the Python driver; the drawing has the size of the image."""
    caption, answer, detected, segmented, free = shown["answers"]
    assert caption["text"] == model.generate(SCENE, "caption en").text
    assert answer["text"] == free["text"] == model.generate(SCENE, f"answer en {QUESTION}").text
    for shown_objects, objects in (
        (detected, model.detect(SCENE, LABELS).objects),
        (segmented, model.segment(SCENE, OBJECT).objects),
    ):
        written = shown_objects["json"]["objects"]
        assert [each["label"] for each in written] == [each.label for each in objects]
        assert [each["mask"] for each in written] == [each.as_json()["mask"] for each in objects]
        assert shown_objects["text"] == " ; ".join(each.label for each in objects)  # without codes
        assert "<loc" in shown_objects["raw"]
        assert shown_objects["raw"] == shown_objects["json"]["text"]
        scores = [each["score"] for each in written]
        np.testing.assert_allclose(scores, [each.score for each in objects], atol=1e-4)
        assert [row[:2] for row in shown_objects["objects"]] == [
            [each.label, f"{each.score:.2f}"] for each in objects
        ]
    assert caption["raw"] is answer["raw"] is None
    with Image.open(SCENE) as image:
        assert {tuple(each["drawing"]) for each in shown["answers"]} == {image.size}
    assert all(
        "tokens per second" in each["timings"] or "1 tokens" in each["timings"] for each in shown["answers"]
    )


def test_a_request_is_stopped(shown: dict[str, Any]) -> None:
    assert "tokens, stopped." in shown["stopped"]


def test_loading_is_stopped_and_repeated(shown: dict[str, Any]) -> None:
    """The end of an interrupted load does not disturb the next one."""
    stopped, repeated = shown["interrupted"]
    assert stopped == "Loading was stopped."
    assert "is ready" in repeated


def test_another_image_ends_the_answer(shown: dict[str, Any]) -> None:
    assert shown["replaced"] == {"text": "", "drawing": [4, 3]}


def test_text_for_the_prompt_is_no_image(shown: dict[str, Any]) -> None:
    """Spreadsheets add an image to copied text."""
    assert shown["textIsLeft"] == [True, True]


def test_images_are_drawn_upright(shown: dict[str, Any], turned: list[Path]) -> None:
    for path, (width, *levels) in zip(turned, shown["turned"], strict=True):
        with Image.open(path) as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(np.reshape(levels, (-1, width)), upright, err_msg=path.name)


def test_the_page_works_offline(shown: dict[str, Any]) -> None:
    assert "is ready" in shown["offlineStatus"]
    assert shown["offline"]["text"] == shown["answers"][0]["text"]


def test_messages_name_the_file(shown: dict[str, Any]) -> None:
    failures = shown["failures"]
    assert re.search(r"/cut/decoder\.data: is cut: it has \d+ bytes instead of \d+; copy", failures["cut/"])
    assert "/altered/vision_encoder.onnx: is altered" in failures["altered/"]
    assert "/incomplete/prefill.onnx: no such file" in failures["incomplete/"]
    assert re.search(r"/other/manifest\.json: .*99", failures["other/"])
    assert "/nowhere/manifest.json: no such file" in failures["nowhere/"]
    assert "http://[ is not an address" in failures["http://["]
    assert "broken.png is damaged" in shown["brokenImage"]


def test_the_automatic_choice_falls_back_to_the_cpu(shown: dict[str, Any]) -> None:
    """The page says why. A person who chose the GPU gets the error only."""
    assert "is ready on the CPU" in shown["fallenBack"]
    assert re.search(r"The GPU cannot be used: .*\(the device is lost\)", shown["fallenBack"])
    assert "is ready" not in shown["chosenGpu"]
    assert "the device is lost" in shown["chosenGpu"]


def test_without_isolation_and_webgpu(shown: dict[str, Any]) -> None:
    """WebAssembly has one thread, and a person who chooses WebGPU learns what to do."""
    assert "not cross-origin isolated" in shown["plainEnvironment"]
    assert "This browser offers no WebGPU" in shown["plainEnvironment"]
    assert "with 1 thread after" in shown["plainStatus"]
    assert "use the device cpu" in shown["noGpu"]
