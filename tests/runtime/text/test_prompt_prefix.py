"""Prompts that begin with `<image>` or `<bos>` or contain special tokens, compared with transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer, PaliGemmaProcessor

from paligemma_onnx.runtime.errors import PromptError
from paligemma_onnx.runtime.text.tokenizer import Detokenizer, PromptTokenizer

MAX_TOKENS = 99  # tokens, more than any prompt here needs
ADDED = ("<s_menu>", "</s_menu>")  # special tokens of a fine-tune


@pytest.fixture(scope="module")
def fine_tuned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that transformers saved after adding special tokens and one that is not special."""
    library = AutoTokenizer.from_pretrained(folder)
    library.add_special_tokens({"extra_special_tokens": list(ADDED)})
    library.add_tokens(["<row>"])
    path = tmp_path_factory.mktemp("fine-tuned")
    library.save_pretrained(path)
    return path


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("text", ["caption en", " caption en", "\ncaption en", "", "detect cat ; dog\n"])
def test_image_tokens_before_the_prompt(
    folder: Path, tokenizer: PromptTokenizer, images: int, text: str
) -> None:
    processor = PaliGemmaProcessor.from_pretrained(folder)
    prompt = "<image>" * images + text
    blank_images = [Image.new("RGB", (28, 28))] * images
    reference = processor(images=[blank_images], text=[prompt])["input_ids"][0]
    text_ids = [token for token in reference if token != tokenizer.image_id]
    assert list(tokenizer.encode(prompt, MAX_TOKENS, images)) == text_ids
    assert list(tokenizer.encode(text, MAX_TOKENS, images)) == text_ids


@pytest.mark.parametrize("prefix", ["<bos>", "<image><bos>", "<bos><image>"])
def test_bos_is_not_doubled(tokenizer: PromptTokenizer, prefix: str) -> None:
    """transformers doubles it; a prompt of the training data has one."""
    assert tokenizer.encode(f"{prefix}caption en", MAX_TOKENS) == tokenizer.encode("caption en", MAX_TOKENS)


@pytest.mark.parametrize(("written", "images"), [(1, 2), (2, 1), (3, 2)])
def test_another_number_of_image_tokens(tokenizer: PromptTokenizer, written: int, images: int) -> None:
    with pytest.raises(PromptError, match=f"begins with {written} <image>, but {images} image"):
        tokenizer.encode("<image>" * written + "caption en", MAX_TOKENS, images)


@pytest.mark.parametrize("prompt", ["<bos><bos>a", "<image> <image>a", "<bos><image><bos><image>a"])
def test_control_tokens_after_the_prefix(tokenizer: PromptTokenizer, prompt: str) -> None:
    with pytest.raises(PromptError, match="contains the control token"):
        tokenizer.encode(prompt, MAX_TOKENS, 1)


@pytest.mark.parametrize("control", ["<eos>", "<unk>"])
def test_a_control_token_that_is_no_added_token(folder: Path, tmp_path: Path, control: str) -> None:
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] != control]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(PromptError, match=f"the control token {control}"):
        PromptTokenizer.load(tmp_path / "tokenizer.json").encode(f"caption {control}", MAX_TOKENS)


def test_special_tokens_of_a_fine_tune(fine_tuned: Path) -> None:
    ours = PromptTokenizer.load(fine_tuned / "tokenizer.json")
    theirs = AutoTokenizer.from_pretrained(fine_tuned)
    for prompt in (
        "<s_menu>",
        "parse <s_menu> a cat </s_menu>",
        "a<s_menu>b<row>",
        " <s_menu>  two",
        "<row>x",
    ):
        ids = list(ours.encode(prompt, MAX_TOKENS))
        assert ids[1:] == theirs(f"{prompt}\n", add_special_tokens=False)["input_ids"]
        assert [ours.token_name(token) for token in ids] == theirs.convert_ids_to_tokens(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        shown = Detokenizer(ours, special_tokens=True)
        text = "".join([*map(shown.push, ids), shown.finish()])
        assert text == theirs.decode(ids, skip_special_tokens=False) == f"<bos>{prompt}\n"
