"""The table of topics: every topic of the course has a chapter, a section and code that exist."""

from __future__ import annotations

import ast
import re

import pytest
from headings import heading_anchors
from paths import ROOT

FOLDER = ROOT / "docs" / "learn"
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
SECTION = re.compile(r"\[[^\]]+\]\(([\w.-]+\.ipynb)#([\w-]+)\)")
CODE = re.compile(r"\[`(\w+)`\]\(([\w./-]+\.py)\)")
# Topics that a course on a vision-language model has to explain, in the order of the course.
TOPICS = (
    "contrastive learning and CLIP",
    "stability of softmax and cross-entropy",
    "SigLIP",
    "why a contrastive encoder",
    "Vision Transformer",
    "SigLIP's embeddings",
    "SigLIP's encoder",
    "SigLIP's feed-forward layer",
    "multi-head attention, explained and coded",
    "batch and layer normalisation",
    "RMS normalisation",
    "architecture",
    "input processor",
    "projection of image features",
    "decoder layer",
    "Gemma's feed-forward layer",
    "weight tying",
    "grouped-query attention",
    "rotary position embedding",
    "KV cache, explained",
    "KV cache, coded",
    "inference code",
    "temperature",
    "top-k and top-p",
)
CONCEPTS = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").split("\n\n")[2:]
ROWS = [row for row in ROW.findall((FOLDER / "index.md").read_text(encoding="utf-8")) if row[0] != "topic"]


def test_no_topic_is_missing() -> None:
    assert {topic for topic in TOPICS if topic not in {row[0] for row in ROWS}} == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_chapter_section_and_code_exist(row: tuple[str, str, str]) -> None:
    _, sections, code = row
    assert SECTION.findall(sections)
    for chapter, anchor in SECTION.findall(sections):
        assert anchor in heading_anchors(FOLDER / chapter), (chapter, anchor)
    assert CODE.findall(code)
    for name, path in CODE.findall(code):
        tree = ast.parse((FOLDER / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("paragraph", CONCEPTS, ids=lambda paragraph: paragraph[2 : paragraph.index("**", 2)])
def test_each_concept_links_to_its_section(paragraph: str) -> None:
    assert re.search(r"\]\(learn/[\w.-]+\.ipynb#[\w-]+\)", paragraph)
