"""Comparison of answers with the column `suffix`: per row, in the summary, and over resumed runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from batch_runs import EchoModel, rows_in
from command_line import run_in_process
from tokenizers import Tokenizer

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.batch.output_parts import Count
from paligemma_onnx.runtime.batch.scoring import Score, score_answer
from paligemma_onnx.runtime.batch.shard_runner import ShardJob, run_shard
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

# Answer of the stub, which repeats the prompt, and expected answer.
PAIRS = [
    ("a red ring", "a red ring"),
    ("a red ring", " a red ring\n"),
    ("a red ring", "a blue ring"),
    ("a red ring", "a red"),
    ("a red ring", ""),
    ("", "  "),
    ("Red", "red"),
    ("<loc0001><loc0002><loc0003><loc0004> cat", "<loc0001><loc0002><loc0003><loc0009> cat"),
    ("caf\u00e9 \U0001f600", "cafe\u0301 \U0001f600"),
    ("a red ring", None),
]


def accuracy_by_hand(answer: str, suffix: str, tokenizer: Tokenizer) -> float:
    tokens = [tokenizer.encode(text.strip(), add_special_tokens=False).tokens for text in (answer, suffix)]
    agreements = [ours == theirs for ours, theirs in zip_longest(*tokens)]
    return sum(agreements) / len(agreements) if agreements else 1.0


def test_scores_follow_their_definition(echo: EchoModel, shipped_bundle: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shipped_bundle / "tokenizer.json"))
    seen = set()
    for answer, suffix in PAIRS:
        if suffix is not None:
            ids = tokenizer.encode(answer, add_special_tokens=False).ids
            score = score_answer(ids, suffix, echo.tokenizer)
            assert score.exact_match == (answer.strip() == suffix.strip())
            assert score.token_accuracy == pytest.approx(accuracy_by_hand(answer, suffix, tokenizer))
            seen.add(score.token_accuracy)
    assert {0.0, 1.0} < seen


def test_four_of_five_tokens(echo: EchoModel) -> None:
    boxes = "<loc0001><loc0002><loc0003><loc000{}>"
    ids = echo.tokenizer.library.encode(boxes.format(4)).ids
    score = score_answer(ids, boxes.format(5), echo.tokenizer)
    assert (score.exact_match, score.token_accuracy) == (False, 0.75)


def test_special_tokens_of_a_fine_tune_count(shipped_bundle: Path, tmp_path: Path) -> None:
    library = Tokenizer.from_file(str(shipped_bundle / "tokenizer.json"))
    library.add_special_tokens(["<s_menu>", "</s_menu>"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = PromptTokenizer.load(tmp_path / "tokenizer.json")
    ids = library.encode("<s_menu>ring</s_menu>", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "ring"
    assert score_answer(ids, "<s_menu>ring</s_menu>", tokenizer) == Score(True, 1.0)
    assert not score_answer(ids, "ring", tokenizer).exact_match


def test_a_text_has_one_score_in_any_tokens(echo: EchoModel) -> None:
    """A model may write a word in other pieces than the tokenizer."""
    library = echo.tokenizer.library
    pieces = [library.token_to_id(piece) for piece in "ring"]
    assert pieces != library.encode("ring").ids
    assert score_answer(pieces, "ring", echo.tokenizer) == Score(True, 1.0)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_and_counts_have_scores(job: ShardJob, echo: EchoModel, kind: str) -> None:
    table = [{"image": "a.png", "prefix": answer, "suffix": suffix} for answer, suffix in PAIRS]
    table.append({"image": "a.png", "prefix": "nan", "suffix": "a failed row has no score"})
    path = job.source.path.with_suffix(f".{kind}")
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in table))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(table), path)
    job = replace(job, source=replace(job.source, path=path, kind=kind))  # type: ignore[arg-type]
    total = sum((count for count, _ in run_shard(job, echo)), Count())
    rows = rows_in(job.output)
    assert [row["suffix"] for row in rows] == [row["suffix"] for row in table]
    scored = [row for row in rows if row["exact_match"] is not None]
    assert [row["token_accuracy"] is not None for row in rows] == [row in scored for row in rows]
    assert len(scored) == len(PAIRS) - 1
    assert total == Count(
        len(table),
        1,
        len(scored),
        sum(row["exact_match"] for row in scored),
        pytest.approx(sum(row["token_accuracy"] for row in scored)),  # type: ignore[arg-type]
    )
    assert sum((count for count, _ in run_shard(job, echo)), Count()) == total  # read from the state files
    job.part(0).file.rename(job.output / f".{job.part(0).name}.partial")
    assert sum((count for count, _ in run_shard(job, echo)), Count()) == total  # recovered from rows


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_the_summary_has_means(
    shipped_bundle: Path,
    images: Path,
    tmp_path: Path,
    format: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = PaliGemma.generate_batch

    def echo_prompts(self: PaliGemma, requests: Any, **options: Any) -> Any:
        answers = original(self, requests, **options)
        echoes = EchoModel(self).generate_batch(requests)
        return [replace(a, text=b.text, token_ids=b.token_ids) for a, b in zip(answers, echoes, strict=True)]

    monkeypatch.setattr(PaliGemma, "generate_batch", echo_prompts)
    table = tmp_path / "annotations.jsonl"
    rows = [
        {"image": str(images / "0000.png"), "prefix": answer, "suffix": suffix} for answer, suffix in PAIRS
    ]
    rows.append({"image": "absent.png", "prefix": "caption en", "suffix": "x"})
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    arguments = ("--device", "cpu", "--max-new-tokens", "1", "--json", "--format", format)
    output = tmp_path / "out"
    result = run_in_process(
        capsys, "batch", "--model", shipped_bundle, "--input", table, "--output", output, *arguments
    )
    assert result.code == 7
    if format == "jsonl":
        written = rows_in(output)
    else:
        (part,) = output.glob("part-*.parquet")
        written = pyarrow.parquet.read_table(part).to_pylist()
    scored = [row for row in written if row["exact_match"] is not None]
    summary = json.loads(result.out)
    assert summary["scored"] == len(scored) == len(PAIRS) - 1
    exact = sum(row["exact_match"] for row in scored)
    assert summary["exact_match"] == exact / len(scored)
    mean = sum(row["token_accuracy"] for row in scored) / len(scored)
    assert summary["token_accuracy"] == pytest.approx(mean)
    assert re.search(rf"1 of 11 failed; exact match {exact} of 9, token accuracy {mean:.4f}\n", result.err)
