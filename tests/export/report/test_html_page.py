"""The HTML page of a validation: self-contained, safe with hostile text, accessible, and correct charts."""

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
from sample_report_data import HOSTILE, LAYERS, broken_report_data, sample_image, sample_report_data

from paligemma_onnx.export.report.chart_scales import MIN_GAP, log_scale
from paligemma_onnx.export.report.charts import BAR_HEIGHT, HEIGHT, LABEL_HEIGHT, WIDTH, Chart, Label
from paligemma_onnx.export.report.embedded_images import MAX_SIDE, embed
from paligemma_onnx.export.report.error_sections import summarize_errors
from paligemma_onnx.export.report.html_page import render_page
from paligemma_onnx.export.report.report_data import ReportData
from paligemma_onnx.runtime.image.open import open_image

STYLE = ROOT / "export" / "report" / "report.css"
VOID = ("meta", "br")  # elements without an end tag
CHAR_WIDTH = 6  # estimated width of a label's character in units; 5.6 in DejaVu Sans, a wide font
REPORTS = [
    sample_report_data,
    lambda: sample_report_data(precision="int4", scale=0.05),
    broken_report_data,
]


class Page(HTMLParser):
    """Elements and texts of a page; fails if an end tag is missing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # parent element, text
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(params=REPORTS, ids=["sound", "rounded", "broken"])
def report(request: pytest.FixtureRequest) -> ReportData:
    make: Callable[[], ReportData] = request.param
    return make()


def test_it_needs_nothing_else_and_runs_nothing(report: ReportData) -> None:
    text = render_page(report, [sample_image(640, 480, HOSTILE)])
    page = Page(text)
    names = {name for name, _ in page.elements}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form", "img"})
    assert {"svg", "image", "use", "table", "style"} <= names
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href", "action", "style"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), attributes
    (style,) = [content for parent, content in page.texts if parent == "style"]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_hostile_names_are_text() -> None:
    page = Page(render_page(broken_report_data(), [sample_image(640, 480, HOSTILE)]))
    hostile = [content for _, content in page.texts if "<script>alert(1)</script>" in content]
    assert len(hostile) > 5  # prompt, answers, tokens, tensor, checkpoint
    labels = [attributes["aria-label"] for _, attributes in page.elements if "aria-label" in attributes]
    assert any("<script>" in label for label in labels)


def test_who_does_not_see_it_is_told(report: ReportData) -> None:
    page = Page(render_page(report, [sample_image(640, 480)]))
    assert page.named("html") == [{"lang": "en"}]
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for attributes in page.named("svg"):
        assert attributes.get("aria-hidden") == "true" or (attributes["role"], attributes["aria-label"])
    for attributes in page.named("th"):
        assert attributes["scope"] in ("row", "col")
    assert len(page.named("caption")) == len(page.named("table")) > 4
    for name in ("header", "main"):
        assert len(page.named(name)) == 1


def test_the_verdict_comes_first(report: ReportData) -> None:
    page = Page(render_page(report, [sample_image(9, 9)]))
    verdicts = [content for parent, content in page.texts if parent == "strong"]
    assert verdicts == ["✓ Passed" if report.validation.passed else "✗ FAILED"]


def luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.2) of #rrggbb."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in channels]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_contrast(scheme: int) -> None:
    """4.5 to 1 for text and 3 to 1 for marks, on the page and on cards (WCAG 2.2, 1.4.3 and 1.4.11)."""
    block = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
    for ground in ("paper", "card"):
        background = luminance(colours[ground])
        for name in ("ink", "quiet", "good", "bad", "c0", "c1", "c2", "c3"):
            light, dark = sorted((luminance(colours[name]), background), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= (3 if name[0] == "c" else 4.5), (ground, name)


@pytest.mark.parametrize(
    ("values", "value", "position"),
    [
        ([1e-6, 1e-2], 1e-4, 0.5),
        ([1e-6, 1e-2], 1e-6, 0.0),
        ([2e-6, 5e-3], 1e-3, 0.75),
        ([0.0, 1e-3, 1e-1], 0.0, 0.0),
        ([0.0, 1e-3, 1e-1], 1e-3, 1 / 3),
        ([1e-3, float("inf")], float("nan"), 1.0),
        ([1e-3, 1e-1, float("inf")], 1e-1, 2 / 3),
        ([0.0, 1e-14, 10.0, float("inf")], 1.0, 15 / 17),
        ([], 1.0, 1.0),
    ],
)
def test_a_log_scale_by_hand(values: list[float], value: float, position: float) -> None:
    scale = log_scale(values)
    assert scale.position(value) == pytest.approx(position)
    ticks = sorted(tick for tick, _ in scale.ticks())
    assert 0 <= ticks[0] <= ticks[-1] <= 1
    assert all(after - before >= MIN_GAP for before, after in pairwise(ticks))


def test_everything_is_drawn_inside_its_chart(report: ReportData) -> None:
    text = render_page(report, [sample_image(640, 480)])
    charts = re.findall(r'<figure class="chart">(.*?)</figure>', text, re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', chart)[1])  # type: ignore[index]
        for left, top in re.findall(r'd="M(-?[\d.]+),(-?[\d.]+)', chart):
            assert 0 <= float(left) <= WIDTH
            assert 0 <= float(top) <= max(HEIGHT, height)


def span(label: Label) -> tuple[float, float]:
    """Return the left and right end of a label, estimated from the number of characters."""
    length = CHAR_WIDTH * len(label.text)
    start = label.x - length * {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor]
    return start, start + length


def overlap(a: Label, b: Label) -> bool:
    (a_start, a_end), (b_start, b_end) = span(a), span(b)
    return abs(a.y - b.y) < LABEL_HEIGHT and a_start < b_end and b_start < a_end


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 0.3, 1e3, 1e15])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int4"])
def test_limit_labels_do_not_overlap(precision: str, scale: float) -> None:
    """Neither each other nor other labels, wherever the limits are on the axis; all are inside the chart."""
    errors = summarize_errors(sample_report_data(precision=precision, scale=scale).validation.comparison)
    charts: list[Chart] = [errors.chart, *(layer.chart for layer in errors.layers)]
    for chart in charts:
        limits = [label for label in chart.labels if label.kind == "limit"]
        assert limits
        for label in limits:
            assert LABEL_HEIGHT <= label.y <= chart.height
            assert 0 <= span(label)[0] <= span(label)[1] <= WIDTH
            others = [other for other in chart.labels if other is not label]
            assert not [other for other in others if overlap(label, other)], label


def test_each_limit_is_drawn_across_its_own_rows() -> None:
    """The mask decoder of a bf16 bundle has the limits of fp32."""
    chart = summarize_errors(sample_report_data(precision="bf16").validation.comparison).chart
    names = {label.x: label.text for label in chart.labels if label.kind == "limit"}
    rows = [(names[line.x1], line.y2 - line.y1) for line in chart.lines if line.kind == "limit"]
    assert [name for name, _ in rows] == ["worst ≤ 0.1", "typical ≤ 0.05"] * 7 + ["both ≤ 10⁻⁴"]
    assert {height for _, height in rows} == {BAR_HEIGHT}


def test_what_is_over_its_limit_is_crossed_out() -> None:
    """Marks of the worst errors are crossed out in a failing report, and no marks in a passing one."""
    assert 'class="failed"' not in re.sub(
        "<ul.*?</ul>", "", render_page(sample_report_data(), [sample_image(9, 9)]), flags=re.DOTALL
    )
    failing = render_page(sample_report_data(scale=3e-4), [sample_image(9, 9)])
    graphs, prefill, *_ = re.findall(r'<figure class="chart">(.*?)</figure>', failing, re.DOTALL)
    assert graphs.count('class="failed"') == 7  # vision; logits, keys and values of prefill and of decode
    # 3e-4 * (1.3 + sin) is below 1e-4 where the sine is below -0.97, and never for two in a row.
    assert LAYERS <= prefill.count('class="failed"') <= 2 * LAYERS


def test_boxes_are_where_the_tokens_say() -> None:
    text = render_page(sample_report_data(), [sample_image(640, 480)])
    (drawing,) = re.findall(r'<figure class="objects">(.*?)</figure>', text, re.DOTALL)
    boxes = re.findall(r'd="M([\d.]+),([\d.]+)H([\d.]+)V([\d.]+)[^"]*" class="box (\w)"', drawing)
    assert [side for *_, side in boxes] == ["R", "R", "B"]
    # <loc0100><loc0200><loc0500><loc0600>: top, left, bottom, right of 1023, in an image drawn 800 by 600
    assert [float(edge) for edge in boxes[0][:4]] == pytest.approx(
        [200 / 1023 * 800, 100 / 1023 * 600, 600 / 1023 * 800, 500 / 1023 * 600], abs=0.06
    )
    assert [float(edge) for edge in boxes[1][:4]] == [0, 0, 800, 600]
    assert "is not four &lt;loc&gt; tokens" in text  # the part that is not an object is shown
    style = STYLE.read_text(encoding="utf-8")
    assert "stroke-dasharray" in re.search(r"path\.box\.B \{(.*?)\}", style)[1]  # type: ignore[index]
    assert "stroke-dasharray" not in re.search(r"path\.box\.R \{(.*?)\}", style)[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("size", "stored", "kind"),
    [((2400, 1200), (800, 400), "jpeg"), ((20, 15), (20, 15), "png"), ((10, 4000), (2, 800), "jpeg")],
)
def test_images_are_embedded_no_larger_than_shown(
    size: tuple[int, int], stored: tuple[int, int], kind: str
) -> None:
    embedded = embed(Image.new("RGB", size), "x")
    start, _, content = embedded.uri.partition(",")
    assert start == f"data:image/{kind};base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == stored
    assert max(embedded.width, embedded.height) == MAX_SIDE


def test_a_rotated_photo_is_upright(tmp_path: Path) -> None:
    """EXIF orientation 6, which phones write for portraits: the left side of the stored image is the top."""
    stored = Image.new("RGB", (300, 200), "black")
    stored.paste("white", (0, 0, 150, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "rotated.jpg", exif=exif, quality=95)
    content = embed(open_image(tmp_path / "rotated.jpg").rgb, "x").uri.partition(",")[2]
    upright = Image.open(io.BytesIO(base64.b64decode(content))).convert("L")
    assert upright.size == (200, 300)
    assert upright.getpixel((100, 30)) > 200  # type: ignore[operator]
    assert upright.getpixel((100, 270)) < 50  # type: ignore[operator]
