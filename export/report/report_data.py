"""Content of a validation report: the measurements, answers as text, images, versions and the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from paligemma_onnx.runtime.bundle.schema import FileSpec, Manifest, ModelFacts, PrecisionFacts, Producer
from paligemma_onnx.runtime.detection.parsing import ParsedObject, parse_answer
from paligemma_onnx.runtime.diagnostics.doctor import diagnose
from paligemma_onnx.runtime.diagnostics.machine import Machine, this_machine
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..validation.measures import GreedyRun
from ..validation.validate import Validation, describe_failure

DETECTION_PREFIXES = ("detect ", "segment ")  # prefixes of prompts whose answers are objects


@dataclass(frozen=True)
class ImageInfo:
    """Name and size of an image that is an input of the reference and of the bundle."""

    name: str | None  # as the user named it; None: the synthetic image
    width: int  # pixels, after the EXIF orientation was applied
    height: int


@dataclass(frozen=True)
class ModelAnswer:
    """Answer of the reference or of the bundle."""

    text: str  # the answer up to the first stop token
    ended: bool  # a stop token was generated; if False, the answer continues after the last step
    objects: tuple[ParsedObject, ...]  # empty unless the prompt asks for objects
    unread: tuple[str, ...]  # parts of an answer with objects that could not be read, with the reason


@dataclass(frozen=True)
class Token:
    """A token and its text."""

    id: int
    text: str


@dataclass(frozen=True)
class DivergencePoint:
    """First step at which the greedy tokens of the bundle differ from the reference's."""

    step: int  # 0 is the first token of the answer, which prefill decides
    reference: Token
    bundle: Token
    margin: float  # the reference's logit of its token minus the reference's logit of the bundle's token
    near_tie: bool  # see is_near_tie() in measures.py
    after_stop: bool  # True if the reference's answer had already ended


@dataclass(frozen=True)
class Answer:
    """One row of the batch: the prompt and both greedy answers."""

    row: int
    prompt: str
    reference: ModelAnswer
    bundle: ModelAnswer
    divergence_point: DivergencePoint | None

    @property
    def has_objects(self) -> bool:
        """Return whether an answer has objects, or parts that could not be read as objects."""
        return any(side.objects or side.unread for side in (self.reference, self.bundle))


@dataclass(frozen=True)
class ReportData:
    """Content of the JSON report and of the HTML page."""

    validation: Validation
    problem: str | None  # one line about the most important failure; None if the validation passed
    created: str  # time of creation, ISO 8601, UTC
    seconds: float  # duration of the validation
    checkpoint: str  # folder or hub id, as the user named it
    adapter: str | None  # folder, as the user named it; None: no adapter
    images: tuple[ImageInfo, ...]
    answers: tuple[Answer, ...]
    model: ModelFacts
    precision_facts: PrecisionFacts
    producer: Producer  # versions of the software that wrote the bundle
    files: dict[str, FileSpec]
    versions: dict[str, str | None]  # versions of the packages used; None: not installed
    python: str
    machine: Machine


def collect_report_data(
    validation: Validation,
    manifest: Manifest,
    tokenizer: PromptTokenizer,
    *,
    prompts: Sequence[str],
    images: tuple[ImageInfo, ...],
    checkpoint: str,
    adapter: str | None,
    seconds: float,
) -> ReportData:
    """Return the content of the report on a validation.

    Args:
        validation: the measurements.
        manifest: the bundle's manifest.
        tokenizer: the bundle's tokenizer.
        prompts: one prompt per row.
        images: the images; every row contains all of them.
        checkpoint: the checkpoint, as the user named it.
        adapter: the adapters, as the user named them; None without an adapter.
        seconds: duration of the validation.
    """
    diagnosis = diagnose()
    runs, stop = validation.comparison.free_runs, manifest.tokens.stop
    return ReportData(
        validation=validation,
        problem=describe_failure(validation),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        checkpoint=checkpoint,
        adapter=adapter,
        images=images,
        answers=tuple(
            _answer(prompt, run, stop, tokenizer) for prompt, run in zip(prompts, runs, strict=True)
        ),
        model=manifest.model,
        precision_facts=manifest.precision,
        producer=manifest.producer,
        files=dict(manifest.files),
        versions=diagnosis.versions,
        python=diagnosis.python,
        machine=this_machine(),
    )


def _answer(prompt: str, run: GreedyRun, stop: tuple[int, ...], tokenizer: PromptTokenizer) -> Answer:
    reference, bundle = (_model_answer(prompt, ids, stop, tokenizer) for ids in (run.reference, run.bundle))
    point = None
    if run.diverged_at is not None and run.margin is not None:
        point = DivergencePoint(
            step=run.diverged_at,
            reference=_token(run.reference[run.diverged_at], tokenizer),
            bundle=_token(run.bundle[run.diverged_at], tokenizer),
            margin=run.margin,
            near_tie=run.near_tie,
            after_stop=any(token in stop for token in run.reference[: run.diverged_at]),
        )
    return Answer(run.row, prompt, reference, bundle, point)


def _model_answer(
    prompt: str, ids: tuple[int, ...], stop: tuple[int, ...], tokenizer: PromptTokenizer
) -> ModelAnswer:
    end = next((index for index, token in enumerate(ids) if token in stop), None)
    text = tokenizer.decode(ids[:end])
    parsed = parse_answer(text if prompt.startswith(DETECTION_PREFIXES) else "")
    return ModelAnswer(text, end is not None, parsed.objects, parsed.warnings)


def _token(token: int, tokenizer: PromptTokenizer) -> Token:
    """Return a token with its text.

    A control token, or a token that is a byte of a character, has its name instead of a text.
    """
    text = "" if token in tokenizer.byte_values else tokenizer.decode([token])
    return Token(token, text or tokenizer.library.id_to_token(token) or "")
