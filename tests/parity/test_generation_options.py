"""Penalty, suppressed tokens, log-probabilities and added special tokens, compared with transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from exporting import export_bundle
from paths import SCENE
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from benchmarks.forced_tokens import single_token_model
from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.runtime import PaliGemma

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
MAX_NEW_TOKENS = 24
ADDED = ("<s_menu>", "</s_menu>")


@pytest.fixture(scope="module")
def model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu")


@cache
def reference_model() -> tuple[Any, Any]:
    with shipped_model() as folder:
        return load_reference(folder)


def load_reference(folder: Path) -> tuple[Any, Any]:
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model.eval(), transformers.PaliGemmaProcessor(
        SiglipImageProcessorPil.from_pretrained(folder), tokenizer
    )


def reference_answer(
    model: Any, processor: Any, prompt: str, **options: Any
) -> tuple[list[int], list[float]]:
    """Return ids and log-probabilities of the tokens before `<eos>`."""
    with Image.open(SCENE) as image:
        inputs = processor(images=[[image]], text=[f"<image>{prompt}"], return_tensors="pt")
    answer = model.generate(
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    scores = model.compute_transition_scores(answer.sequences, answer.logits, normalize_logits=True)
    ids = answer.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    count = (
        ids.index(processor.tokenizer.eos_token_id) if processor.tokenizer.eos_token_id in ids else len(ids)
    )
    return ids[:count], scores[0, :count].tolist()


@pytest.mark.parametrize("prompt", ["caption en", "detect circle ; ring"])
@pytest.mark.parametrize(
    "options", [{}, {"repetition_penalty": 30.0}, {"suppress_tokens": []}, {"repetition_penalty": 0.1}]
)
def test_greedy_answers_and_log_probabilities(model: PaliGemma, prompt: str, options: dict[str, Any]) -> None:
    plain = model.generate(SCENE, prompt)
    if "suppress_tokens" in options:  # tokens that the model would choose
        options = {"suppress_tokens": [plain.token_ids[0], plain.token_ids[3]]}
    ids, logprobs = reference_answer(*reference_model(), prompt, **options)
    answer = model.generate(SCENE, prompt, max_new_tokens=MAX_NEW_TOKENS, logprobs=True, **options)  # type: ignore[misc]
    assert list(answer.token_ids) == ids
    assert answer.logprobs == pytest.approx(logprobs, abs=2e-4)
    if options:
        assert answer.token_ids != plain.token_ids


def test_options_do_not_change_log_probabilities(model: PaliGemma) -> None:
    """They are the model's: temperature, filters, penalty and constraints do not enter."""
    prompt = "detect circle ; ring"
    # Steps of several tokens add numbers in another order; test_forced_tokens.py compares them.
    model = single_token_model(model)
    plain = model.generate(SCENE, prompt, logprobs=True)
    options: Any = {"temperature": 3.0, "top_k": 1, "constrained": True}
    other = model.generate(SCENE, prompt, logprobs=True, **options)
    assert other.token_ids == plain.token_ids
    assert other.logprobs == pytest.approx(plain.logprobs)
    assert model.generate(SCENE, prompt).logprobs is None


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with two more special tokens, whose embeddings are those of other tokens."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    with shipped_model() as source:
        reference, processor = load_reference(source)
    tokenizer = processor.tokenizer
    before = len(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": list(ADDED)})
    reference.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        table = reference.get_input_embeddings().weight
        table[before] = 1.02 * table[tokenizer.convert_tokens_to_ids("▁circle")]
        table[before + 1] = table[tokenizer.convert_tokens_to_ids("▁ring")]
    reference.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_special_tokens_of_a_fine_tune(fine_tuned: Path, tmp_path: Path) -> None:
    reference, processor = load_reference(fine_tuned)
    model = PaliGemma.load(export_bundle(fine_tuned, tmp_path / "bundle"), device="cpu")
    shown = 0
    for prompt in ("detect<s_menu>", "segment<s_menu> ; ring", "detect circle ;</s_menu>"):
        ids, logprobs = reference_answer(reference, processor, prompt)
        answer = model.generate(SCENE, prompt, max_new_tokens=MAX_NEW_TOKENS, logprobs=True)
        assert list(answer.token_ids) == ids
        assert answer.logprobs == pytest.approx(logprobs, abs=2e-4)
        assert list(answer.tokens) == processor.tokenizer.convert_ids_to_tokens(ids)
        assert answer.text == processor.tokenizer.decode(ids, skip_special_tokens=True)
        special = model.generate(SCENE, prompt, max_new_tokens=MAX_NEW_TOKENS, special_tokens=True)
        assert special.text == processor.tokenizer.decode(ids, skip_special_tokens=False)
        shown += special.text != answer.text
    assert shown
