"""A call of the model, its attributes, and the arguments and inputs that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from paligemma_onnx.optimum import ORTPaliGemma
from paligemma_onnx.runtime import ImageError, OptionError, PromptError

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_logits_of_the_next_token(model: ORTPaliGemma, reference: Any, batch: Any) -> None:
    logits = model(**batch).logits
    with torch.no_grad():
        expected = reference(**{name: value for name, value in batch.items() if name != "labels"}).logits
    assert logits.shape == (3, 1, expected.shape[2])
    torch.testing.assert_close(logits[:, -1], expected[:, -1], rtol=1e-4, atol=1e-4)


def test_the_first_tokens(model: ORTPaliGemma, reference: Any, inputs: Any) -> None:
    """test_generate.py compares whole answers, batches and options."""
    ids = model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(ids, reference.generate(**inputs, max_new_tokens=3))


def test_habits_of_evaluation_scripts(model: ORTPaliGemma, processor: Any, scene: Image.Image) -> None:
    assert model.to("cpu").eval().device == torch.device("cpu")
    assert (model.dtype, model.main_input_name, model.can_generate()) == (torch.float32, "input_ids", True)
    assert model.to(torch.float32) is model
    inputs = processor(images=scene, text="<image>caption en", return_tensors="pt").to(model.device)
    with torch.inference_mode():
        ids = model.generate(**inputs)
    length = inputs["input_ids"].shape[-1]
    (text,) = processor.batch_decode(ids[:, length:], skip_special_tokens=True)
    assert text == model.model.generate(scene, "caption en").text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 4}, "num_beams=4 is not supported: beam search"),
        ({"assistant_model": object()}, "assistant_model=<object> is not supported: "),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3"),
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "cache_implementation=static"),
        ({"past_key_values": transformers.DynamicCache()}, "past_key_values=<DynamicCache>"),
        ({"inputs_embeds": torch.zeros(1, 3, 192)}, "inputs_embeds=<Tensor>"),
        ({"output_attentions": True}, "output_attentions=True"),
        ({"output_hidden_states": True}, "output_hidden_states=True"),
        ({"guidance_scale": 2.0}, "guidance_scale=2.0"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
        ({"custom_generate": "owner/name"}, "custom_generate=owner/name"),
        ({"generation_config": transformers.GenerationConfig(num_beams=2)}, "num_beams=2"),
    ],
)
def test_an_argument_that_is_not_supported_is_named(
    model: ORTPaliGemma, inputs: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError) as caught:
        model.generate(**inputs, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_argument_is_named(model: ORTPaliGemma, inputs: Any) -> None:
    with pytest.raises(ValueError, match="max_new_token'"):
        model.generate(**inputs, max_new_token=3)
    with pytest.raises(OptionError, match="pixels is not an argument"):
        model(**inputs, pixels=3)
    with pytest.raises(OptionError, match="logits_to_keep=0, return_dict=True is not supported"):
        model(**inputs, logits_to_keep=0)
    with pytest.raises(OptionError, match="export with precision="):
        model.to(torch.bfloat16)


def test_harmless_values_are_accepted(model: ORTPaliGemma, inputs: Any) -> None:
    expected = model.generate(**inputs, max_new_tokens=3)
    options = {"num_beams": 1, "use_cache": True, "output_attentions": False, "cache_implementation": None}
    assert torch.equal(model.generate(**inputs, max_new_tokens=3, **options), expected)
    positional = {name: value for name, value in inputs.items() if name != "input_ids"}
    assert torch.equal(model.generate(inputs["input_ids"], **positional, max_new_tokens=3), expected)


def changed(inputs: Any, **changes: Any) -> dict[str, Any]:
    return {**inputs, **changes}


def test_malformed_inputs_are_refused(model: ORTPaliGemma, inputs: Any) -> None:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    ones = torch.ones_like(ids)
    for arguments, words in (
        (changed(inputs, input_ids=None), "input_ids is missing"),
        (changed(inputs, input_ids=ids[0]), "expected ids of shape [rows, length]"),
        (changed(inputs, input_ids=ids + 2000), "has an id outside 0 to 1844"),
        (
            changed(inputs, input_ids=ids[:, 3:], attention_mask=mask[:, 3:]),
            "has 61 <image> ids, the bundle needs 64",
        ),
        (changed(inputs, input_ids=ids.flip(1)), "row 0 of input_ids has text before <image> ids"),
        (changed(inputs, input_ids=ids[:, :64], attention_mask=mask[:, :64]), "has no text, not even <bos>"),
        (changed(inputs, input_ids=ids.repeat(1, 8), attention_mask=None), "text before <image>"),
        (changed(inputs, attention_mask=mask[:, 1:]), "attention_mask is int64[1, 67], expected the shape"),
        (changed(inputs, attention_mask=mask * 0), "has 0 <image> ids"),
        (changed(inputs, token_type_ids=ones), "token_type_ids marks a suffix"),
        (changed(inputs, labels=ids), "labels has targets"),
    ):
        with pytest.raises(PromptError) as caught:
            model(**arguments)
        assert words in str(caught.value)
    long = torch.cat([ids, ids[:, -1:].expand(1, 512)], dim=1)
    with pytest.raises(PromptError, match="the context has 512 and needs at least one for the answer"):
        model.generate(input_ids=long, pixel_values=inputs["pixel_values"])
    two_counts = torch.cat([torch.full((1, 128), 1781), ids[:, 64:]], dim=1)
    padded = torch.cat([torch.zeros(1, 64, dtype=torch.int64), ids], dim=1)
    used = torch.ones_like(torch.cat([padded, two_counts]))
    used[0, :64] = 0
    pixels = inputs["pixel_values"].repeat(3, 1, 1, 1)
    with pytest.raises(PromptError, match="different numbers of images: 1, 2; make one call"):
        model(input_ids=torch.cat([padded, two_counts]), attention_mask=used, pixel_values=pixels)


def test_pixel_values_that_do_not_fit_are_refused(model: ORTPaliGemma, inputs: Any) -> None:
    pixels = inputs["pixel_values"]
    for wrong, words in (
        (None, "pixel_values is missing"),
        (pixels[..., :56], "float32[1, 3, 112, 56]"),
        (pixels.repeat(2, 1, 1, 1), "need floats of shape [1, 3, 112, 112]"),
        (pixels.to(torch.int64), "pixel_values is int64"),
    ):
        with pytest.raises(ImageError) as caught:
            model.generate(**changed(inputs, pixel_values=wrong))
        assert words in str(caught.value)
