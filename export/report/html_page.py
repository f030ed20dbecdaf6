"""The validation report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from .detection_section import objects
from .embedded_images import Embedded, drawn, store
from .error_sections import errors
from .findings import ReportData
from .html_markup import Markup, table, tag
from .token_sections import paths, steps

STYLE = "report.css"
GIB = 1 << 30  # bytes
MOST_NAMES = 50  # tensors that are listed when they differ


def page(findings: ReportData, pictures: Sequence[Embedded]) -> str:
    """The whole document.

    Args:
        findings: what it tells.
        pictures: those of the findings, in that order.
    """
    validation = findings.validation
    title = f"{'Passed' if validation.passed else 'FAILED'}: bundle {validation.bundle_id}"
    style = files(__package__).joinpath(STYLE).read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing is loaded and nothing runs, whatever a name or an answer may say.
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        store(pictures),
        _verdict(findings),
        tag(
            "main",
            _weights(findings),
            errors(validation.comparison),
            steps(validation.comparison, findings.answers),
            paths(findings),
            objects(findings.answers, pictures),
            _pictures(pictures),
            _circumstances(findings),
        ),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _verdict(findings: ReportData) -> Markup:
    validation = findings.validation
    passed = validation.passed
    comparison = validation.comparison
    judged = "words must agree" if comparison.exact else "rounding of words is reported, not judged"
    words = [one.top1 for one in comparison.agreements]
    return tag(
        "header",
        tag("h1", "Is this bundle that checkpoint?"),
        tag(
            "div",
            tag("p", tag("strong", "✓ Passed" if passed else "✗ FAILED")),
            tag("p", findings.problem or "Every number is within its limit.", class_="text"),
            class_=f"verdict {'passed' if passed else 'failed'}",
        ),
        _facts(
            {
                "bundle": f"{validation.bundle_id}, {validation.precision}, on {validation.device}",
                "checkpoint": findings.checkpoint
                + (f" with adapter {findings.adapter}" if findings.adapter else ""),
                "reference": validation.reference,
                "compared": f"{validation.rows} rows, prefill and {validation.steps} steps; {judged}",
                "first word": f"{sum(words)} of {len(words)} agree",
                "when": f"{findings.created}, in {findings.seconds:.1f} s",
            }
        ),
    )


def _weights(findings: ReportData) -> Markup:
    weights = findings.validation.weights
    names = [tag("li", tag("code", name)) for name in weights.different[:MOST_NAMES]]
    more = len(weights.different) - len(names)
    return tag(
        "section",
        tag("h2", "Weights"),
        tag(
            "p",
            f"{weights.tensors} stored tensors were compared with the checkpoint, bit for bit; "
            f"{len(weights.different)} differ.",
        ),
        tag("ul", *names) if names else "",
        tag("p", f"and {more} more") if more else "",
    )


def _pictures(pictures: Sequence[Embedded]) -> Markup:
    figures = [
        tag("figure", drawn(number, one), tag("figcaption", one.label, class_="text"))
        for number, one in enumerate(pictures)
    ]
    return tag("section", tag("h2", "Pictures"), tag("div", *figures, class_="pictures"))


def _circumstances(findings: ReportData) -> Markup:
    machine, producer, recipe = findings.machine, findings.producer, findings.recipe
    memory = "unknown" if machine.memory_bytes is None else f"{machine.memory_bytes / GIB:.1f} GiB"
    written = [(name, f"{spec.bytes:,}", tag("code", spec.sha256)) for name, spec in findings.files.items()]
    versions = [(name, found or "not installed") for name, found in findings.versions.items()]
    return tag(
        "section",
        tag("h2", "Circumstances"),
        _facts(
            {
                "machine": f"{machine.processor}, {machine.threads} threads, {memory} of memory, "
                f"{machine.system}",
                "model": f"{findings.model.family}, {findings.model.parameters:,} parameters",
                "precision": f"{recipe.name}, ONNX opset {recipe.opset}",
                **{f"{graph} matrices": form for graph, form in vars(recipe.matrices).items()},
                "bundle made by": f"paligemma-onnx {producer.paligemma_onnx}, torch {producer.torch}, "
                f"onnx {producer.onnx}",
                "python": findings.python,
            }
        ),
        table("The bundle's files", ("file", "bytes", "SHA-256"), written),
        table("Versions that took part", ("package", "version"), versions),
    )


def _facts(facts: Mapping[str, str]) -> Markup:
    pairs = [part for name, value in facts.items() for part in (tag("dt", name), tag("dd", value))]
    return tag("dl", *pairs)
