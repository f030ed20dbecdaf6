"""A validation with all that a reader wants beside it: words, pictures, and the circumstances."""

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

LOCATING = ("detect ", "segment ")  # how prompts begin whose answers are objects


@dataclass(frozen=True)
class ImageInfo:
    """A picture that both sides were shown."""

    name: str | None  # as it was given; None: a synthetic one
    width: int  # pixels, upright
    height: int


@dataclass(frozen=True)
class ModelAnswer:
    """What one side answers."""

    text: str  # up to the first stop id
    ended: bool  # whether there was one; if not, the answer goes on behind the last step
    objects: tuple[ParsedObject, ...]  # where the prompt asks for objects
    unread: tuple[str, ...]  # parts of such an answer that are no object, and why


@dataclass(frozen=True)
class Token:
    """A token."""

    id: int
    text: str


@dataclass(frozen=True)
class Divergence:
    """Where the greedy path of the bundle leaves the reference's."""

    step: int  # 0 is the first id, which prefill decides
    reference: Token
    bundle: Token
    margin: float  # the reference's logit of its own word less that of the bundle's
    near_tie: bool  # closer than twice the error allowed
    behind_the_answer: bool  # the reference had ended before


@dataclass(frozen=True)
class Answer:
    """One row of the batch: what was asked, and what each side says when it follows its own choices."""

    row: int
    prompt: str
    reference: ModelAnswer
    bundle: ModelAnswer
    parting: Divergence | None


@dataclass(frozen=True)
class ReportData:
    """Everything that a report tells."""

    validation: Validation
    problem: str | None  # one line about the worst of what is wrong; None where nothing is
    created: str  # ISO 8601, UTC
    seconds: float  # that the validation took
    checkpoint: str  # as it was given
    adapter: str | None
    pictures: tuple[ImageInfo, ...]
    answers: tuple[Answer, ...]
    model: ModelFacts
    recipe: PrecisionFacts
    producer: Producer  # of the bundle
    files: dict[str, FileSpec]
    versions: dict[str, str | None]  # of what took part; None: not installed
    python: str
    machine: Machine


def collect_report_data(
    validation: Validation,
    manifest: Manifest,
    tokenizer: PromptTokenizer,
    *,
    prompts: Sequence[str],
    pictures: tuple[ImageInfo, ...],
    checkpoint: str,
    adapter: str | None,
    seconds: float,
) -> ReportData:
    """Put a validation into words.

    Args:
        validation: what was found.
        manifest: the bundle's.
        tokenizer: the bundle's.
        prompts: the rows' prompts.
        pictures: what they were asked about.
        checkpoint: as the user named it.
        adapter: as the user named it.
        seconds: that the validation took.
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
        pictures=pictures,
        answers=tuple(
            _answer(prompt, run, stop, tokenizer) for prompt, run in zip(prompts, runs, strict=True)
        ),
        model=manifest.model,
        recipe=manifest.precision,
        producer=manifest.producer,
        files=dict(manifest.files),
        versions=diagnosis.versions,
        python=diagnosis.python,
        machine=this_machine(),
    )


def _answer(prompt: str, run: GreedyRun, stop: tuple[int, ...], tokenizer: PromptTokenizer) -> Answer:
    locating = prompt.startswith(LOCATING)
    reference, bundle = (
        _side(ids, stop, tokenizer, locating=locating) for ids in (run.reference, run.bundle)
    )
    parting = None
    if run.diverged_at is not None and run.margin is not None:
        parting = Divergence(
            step=run.diverged_at,
            reference=_word(run.reference[run.diverged_at], tokenizer),
            bundle=_word(run.bundle[run.diverged_at], tokenizer),
            margin=run.margin,
            near_tie=run.near_tie,
            behind_the_answer=any(token in stop for token in run.reference[: run.diverged_at]),
        )
    return Answer(run.row, prompt, reference, bundle, parting)


def _side(
    ids: tuple[int, ...], stop: tuple[int, ...], tokenizer: PromptTokenizer, *, locating: bool
) -> ModelAnswer:
    end = next((place for place, token in enumerate(ids) if token in stop), None)
    text = tokenizer.decode(ids[:end])
    objects = parse_answer(text) if locating else parse_answer("")
    return ModelAnswer(text, end is not None, objects.found, objects.warnings)


def _word(token: int, tokenizer: PromptTokenizer) -> Token:
    """A token with the text of its piece; control tokens and halves of characters have that of their name."""
    text = "" if token in tokenizer.byte_values else tokenizer.decode([token])
    return Token(token, text or tokenizer.library.id_to_token(token) or "")
