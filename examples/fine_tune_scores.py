r"""Compare a base model with its fine-tune on examples that it was not trained on, in several precisions.

    python examples/fine_tune_scores.py export/demo/paligemma-scenes adapter \
        dataset/valid/annotations.jsonl scores

`export --adapter` merges the adapter into the weights, then `batch` answers every `prefix` and compares the
answer with `suffix`: the share of equal answers, and of equal tokens (docs/batch.md defines both).
"""

import json
import subprocess
import sys
from pathlib import Path

PRECISIONS = ("fp32", "int8", "int4")
MAX_NEW_TOKENS = "20"  # more than any correct answer has


def paligemma_onnx(*arguments: object) -> str:
    """Run a command, show its progress, and return what it prints to stdout."""
    command = ["paligemma-onnx", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def scores(bundle: Path, annotations: str) -> tuple[float, float]:
    """Return exact match and token accuracy of a bundle, 0 to 1 each."""
    options = ("--max-new-tokens", MAX_NEW_TOKENS, "--json", "--force")
    answers = bundle.with_name(f"{bundle.name}-answers")
    output = paligemma_onnx("batch", "--model", bundle, "--input", annotations, "--output", answers, *options)
    result = json.loads(output)
    return result["exact_match"], result["token_accuracy"]


def main(checkpoint: str, adapter: str, annotations: str, output: str) -> None:
    """Print a table of the scores before and after; OUTPUT keeps it, the bundles and the answers."""
    table = {}
    for precision in PRECISIONS:
        table[precision] = list[float]()
        for name, merged in (("before", ()), ("after", ("--adapter", adapter))):
            bundle = Path(output, f"{name}-{precision}")
            options = ("--output", bundle, "--precision", precision, "--force")
            paligemma_onnx("export", checkpoint, *options, *merged)
            table[precision] += scores(bundle, annotations)
    Path(output, "scores.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print("| | exact match before | token accuracy before | exact match after | token accuracy after |")
    print("|---|---|---|---|---|")
    for precision, values in table.items():
        print(f"| `{precision}` | {' | '.join(f'{value:.3f}' for value in values)} |")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
