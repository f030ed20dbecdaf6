"""Prompts and answers in the JavaScript driver, compared with the Python driver."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from javascript import WEB
from paths import ROOT
from web_driver import run_parity

from paligemma_onnx.runtime.errors import PromptError
from paligemma_onnx.runtime.text.tokenizer import Detokenizer, PromptTokenizer

pytestmark = pytest.mark.web

NUM_REQUESTS, NUM_PROMPTS, NUM_ANSWERS = 800, 500, 100  # some requests are refused
GEMMA = WEB / "node_modules" / "@lenml" / "tokenizer-gemini" / "models" / "tokenizer.json"
WORDS = """
caption en describe answer detect segment ocr what is in the picture? cat ; dog a red circle, 12 34567 x=y
Größe größer naïve señor étoile à gauche 猫は犬より小さい кот и собака ქართული हिन्दी العربية עברית ไทย 한국어
👩‍👩‍👧‍👦 🇩🇪 ﬁ \u0301 e\u0301 \ufeff \u200d \u00a0 \u2581 \t \n \r\n <b> </b>
<loc0000> <loc1023> <loc1024> <seg007> <seg128> <unused9> <0x41> <0xE2> <start_of_turn> [@BOS@]
\U0001f9ff \U00020000 don't "quoted" (a) #1 http://a.b/c?d=e&f _ --
... 1,000.5
"""
PREFIXES = [
    *[""] * 9,
    "<image>",
    "<bos>",
    "<image><image>",
    "<bos><image>",
    "<image><bos>",
    "x<image>",
    "<pad>",
]
# Added tokens of one test, by the flag that each has.
FLAGGED = {
    "single_word": "gnu9",
    "lstrip": "yak9",
    "rstrip": "emu9",
    "normalized": "red owl9",
    "special": "cat9",
}


def prompts() -> list[dict[str, Any]]:
    """Return prompts of words in several scripts, of random characters, and of control tokens."""
    rng = random.Random(0)
    pieces = [*WORDS.split(" "), *FLAGGED.values()]
    listed = []
    for number in range(NUM_REQUESTS):
        separator = rng.choice([" ", " ", "", "  ", "\n", "\n\n"])
        text = separator.join(rng.choice(pieces) for _ in range(rng.randrange(12)))
        if number % 5 == 0:
            text += "".join(
                chr(rng.choice([rng.randrange(128), rng.randrange(0x20, 0xD800)])) for _ in range(8)
            )
        if number % 50 == 0:
            text += rng.choice(["<image>", "<eos>", "<unk>", "<bos>", "a" * 3000])
        prompt = rng.choice(PREFIXES) + text
        listed.append(
            {
                "prompt": prompt,
                "maxTokens": rng.choice([8, 400, 400, 400, 400, 400]),
                "images": rng.choice([1, 1, 2]),
            }
        )
    return listed


def answers(size: int) -> list[list[int]]:
    """Return lists of ids: random ones, and ids of bytes, which may form invalid UTF-8."""
    rng = random.Random(1)
    return [[rng.randrange(rng.choice([300, size + 3])) for _ in range(30)] for _ in range(NUM_ANSWERS)]


def expected_ids(tokenizer: PromptTokenizer, request: dict[str, Any]) -> list[int] | str:
    try:
        return list(tokenizer.encode(request["prompt"], request["maxTokens"], request["images"]))
    except PromptError as error:
        return f"PromptError: {error}"


def expected_pieces(tokenizer: PromptTokenizer, ids: list[int], *, special_tokens: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, special_tokens=special_tokens)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def shipped_vocabulary(_: Path) -> Path:
    return ROOT / "export" / "demo" / "paligemma-scenes" / "tokenizer.json"


def gemma_vocabulary(folder: Path) -> Path:
    """Return the published vocabulary of Gemma, with the tokens that PaliGemma 1 adds."""
    document = json.loads(GEMMA.read_text(encoding="utf-8"))
    names = [f"<loc{number:04d}>" for number in range(1024)] + [f"<seg{number:03d}>" for number in range(128)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    document["added_tokens"] += [
        {"id": 256_000 + place, "content": name, "special": name == "<image>", **flags}
        for place, name in enumerate([*names, "<image>"])
    ]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def flagged_vocabulary(folder: Path) -> Path:
    """Return the shipped vocabulary with added tokens that use every flag."""
    document = json.loads(shipped_vocabulary(folder).read_text(encoding="utf-8"))
    first = 1 + max(entry["id"] for entry in document["added_tokens"])
    document["added_tokens"] += [
        {"id": first + place, "content": text} | {flag: flag == set_flag for flag in FLAGGED}
        for place, (set_flag, text) in enumerate(FLAGGED.items())
    ]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("vocabulary", [shipped_vocabulary, gemma_vocabulary, flagged_vocabulary])
def test_ids_and_pieces_are_equal(vocabulary: Callable[[Path], Path], tmp_path: Path) -> None:
    """Ids of prompts, messages of refused prompts, and pieces of streamed answers."""
    path = vocabulary(tmp_path)
    tokenizer = PromptTokenizer.load(path)
    requests, listed = prompts(), answers(tokenizer.size)
    result = run_parity("text", {"tokenizer": str(path), "prompts": requests, "answers": listed}, tmp_path)
    expected = [expected_ids(tokenizer, request) for request in requests]
    assert result["encoded"] == expected
    assert sum(isinstance(ids, list) for ids in expected) > NUM_PROMPTS
    assert len({ids.partition(",")[0] for ids in expected if isinstance(ids, str)}) > 5
    assert result["pieces"] == [
        [expected_pieces(tokenizer, ids, special_tokens=shown) for shown in (False, True)] for ids in listed
    ]
    assert result["facts"] == {
        "size": tokenizer.size,
        "maxTokenBytes": tokenizer.max_token_bytes,
        "locationIds": list(tokenizer.location_ids),
    }
