"""The validation report as a page: whole in itself, safe whatever it is told, readable for everybody."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image
from sample_findings import HOSTILE, LAYERS, broken, findings, picture

from paligemma_onnx.export.report.chart_scales import log_scale
from paligemma_onnx.export.report.charts import HEIGHT, WIDTH
from paligemma_onnx.export.report.embedded_images import LONGEST, embed
from paligemma_onnx.export.report.findings import ReportData
from paligemma_onnx.export.report.html_page import page
from paligemma_onnx.runtime.image.open import open_image

STYLE = ROOT / "export" / "report" / "report.css"
ALONE = ("meta", "br")  # elements without an end
ALL = [findings, lambda: findings(exact=False, scale=0.05), broken]


class Page(HTMLParser):
    """A page taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # the element around, text
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(params=ALL, ids=["sound", "rounded", "broken"])
def told(request: pytest.FixtureRequest) -> ReportData:
    made: Callable[[], ReportData] = request.param
    return made()


def test_it_needs_nothing_else_and_runs_nothing(told: ReportData) -> None:
    text = page(told, [picture(640, 480, HOSTILE)])
    shown = Page(text)
    names = {name for name, _ in shown.elements}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form", "img"})
    assert {"svg", "image", "use", "table", "style"} <= names
    for _, attributes in shown.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href", "action", "style"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), attributes
    (style,) = [content for around, content in shown.texts if around == "style"]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_hostile_names_are_text() -> None:
    shown = Page(page(broken(), [picture(640, 480, HOSTILE)]))
    spoken = [content for _, content in shown.texts if "<script>alert(1)</script>" in content]
    assert len(spoken) > 5  # prompt, answers, tokens, tensor, checkpoint
    labels = [attributes["aria-label"] for _, attributes in shown.elements if "aria-label" in attributes]
    assert any("<script>" in label for label in labels)


def test_who_does_not_see_it_is_told(told: ReportData) -> None:
    shown = Page(page(told, [picture(640, 480)]))
    assert shown.named("html") == [{"lang": "en"}]
    levels = [int(name[1]) for name, _ in shown.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for attributes in shown.named("svg"):
        assert attributes.get("aria-hidden") == "true" or (attributes["role"], attributes["aria-label"])
    for attributes in shown.named("th"):
        assert attributes["scope"] in ("row", "col")
    assert len(shown.named("caption")) == len(shown.named("table")) > 4
    for name in ("header", "main"):
        assert len(shown.named(name)) == 1


def test_the_verdict_comes_first(told: ReportData) -> None:
    said = [content for around, content in Page(page(told, [picture(9, 9)])).texts if around == "strong"]
    assert said == ["✓ Passed" if told.validation.passed else "✗ FAILED"]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in channels]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_contrast(scheme: int) -> None:
    """4.5 to 1 for text and 3 to 1 for marks, on the page and on cards (WCAG 2.2, 1.4.3 and 1.4.11)."""
    block = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
    for ground in ("paper", "card"):
        behind = luminance(colours[ground])
        for name in ("ink", "quiet", "good", "bad", "c0", "c1", "c2", "c3"):
            light, dark = sorted((luminance(colours[name]), behind), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= (3 if name[0] == "c" else 4.5), (ground, name)


@pytest.mark.parametrize(
    ("values", "value", "share"),
    [
        ([1e-6, 1e-2], 1e-4, 0.5),
        ([1e-6, 1e-2], 1e-6, 0.0),
        ([2e-6, 5e-3], 1e-3, 0.75),
        ([0.0, 1e-3, 1e-1], 0.0, 0.0),
        ([0.0, 1e-3, 1e-1], 1e-3, 1 / 3),
        ([1e-3, float("inf")], float("nan"), 1.0),
        ([1e-3, 1e-1, float("inf")], 1e-1, 2 / 3),
        ([], 1.0, 1.0),
    ],
)
def test_a_log_scale_by_hand(values: list[float], value: float, share: float) -> None:
    scale = log_scale(values)
    assert scale.share(value) == pytest.approx(share)
    assert all(0 <= place <= 1 for place, _ in scale.ticks())


def test_everything_is_drawn_inside_its_chart(told: ReportData) -> None:
    text = page(told, [picture(640, 480)])
    charts = re.findall(r'<figure class="chart">(.*?)</figure>', text, re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', chart)[1])  # type: ignore[index]
        for left, top in re.findall(r'd="M(-?[\d.]+),(-?[\d.]+)', chart):
            assert 0 <= float(left) <= WIDTH
            assert 0 <= float(top) <= max(HEIGHT, height)


def test_what_is_over_its_limit_is_crossed_out() -> None:
    """Of each graph's and layer's marks those whose worst is; of the sound bundle none."""
    assert 'class="failed"' not in re.sub(
        "<ul.*?</ul>", "", page(findings(), [picture(9, 9)]), flags=re.DOTALL
    )
    whole = page(findings(scale=3e-4), [picture(9, 9)])
    graphs, prefill, *_ = re.findall(r'<figure class="chart">(.*?)</figure>', whole, re.DOTALL)
    assert graphs.count('class="failed"') == 7  # vision; logits, keys and values of prefill and of decode
    # 3e-4 * (1.3 + sin) is over 1e-4 but where the sine is below -0.97; then its neighbour's is not.
    assert LAYERS <= prefill.count('class="failed"') <= 2 * LAYERS


def test_boxes_are_where_the_tokens_say() -> None:
    text = page(findings(), [picture(640, 480)])
    (drawn,) = re.findall(r'<figure class="seen">(.*?)</figure>', text, re.DOTALL)
    boxes = re.findall(r'd="M([\d.]+),([\d.]+)H([\d.]+)V([\d.]+)[^"]*" class="box (\w)"', drawn)
    assert [side for *_, side in boxes] == ["R", "R", "B"]
    # <loc0100><loc0200><loc0500><loc0600>: top, left, bottom, right of 1023, in a picture drawn 800 by 600
    assert [float(edge) for edge in boxes[0][:4]] == pytest.approx(
        [200 / 1023 * 800, 100 / 1023 * 600, 600 / 1023 * 800, 500 / 1023 * 600], abs=0.06
    )
    assert [float(edge) for edge in boxes[1][:4]] == [0, 0, 800, 600]
    assert "is not four &lt;loc&gt; tokens" in text  # what was no object is said
    style = STYLE.read_text(encoding="utf-8")
    assert "stroke-dasharray" in re.search(r"path\.box\.B \{(.*?)\}", style)[1]  # type: ignore[index]
    assert "stroke-dasharray" not in re.search(r"path\.box\.R \{(.*?)\}", style)[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("size", "shown", "kind"),
    [((2400, 1200), (800, 400), "jpeg"), ((20, 15), (20, 15), "png"), ((10, 4000), (2, 800), "jpeg")],
)
def test_pictures_are_embedded_no_larger_than_shown(
    size: tuple[int, int], shown: tuple[int, int], kind: str
) -> None:
    embedded = embed(Image.new("RGB", size), "x")
    start, _, content = embedded.uri.partition(",")
    assert start == f"data:image/{kind};base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == shown
    assert max(embedded.width, embedded.height) == LONGEST


def test_a_turned_picture_is_upright(tmp_path: Path) -> None:
    """EXIF orientation 6, as a telephone held upright writes it: what is stored on the left is on top."""
    stored = Image.new("RGB", (300, 200), "black")
    stored.paste("white", (0, 0, 150, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    content = embed(open_image(tmp_path / "turned.jpg").rgb, "x").uri.partition(",")[2]
    seen = Image.open(io.BytesIO(base64.b64decode(content))).convert("L")
    assert seen.size == (200, 300)
    assert seen.getpixel((100, 30)) > 200  # type: ignore[operator]
    assert seen.getpixel((100, 270)) < 50  # type: ignore[operator]
