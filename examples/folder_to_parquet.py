"""Answer a prompt about every image below a folder, and read the answers from Parquet.

    python examples/folder_to_parquet.py demo-output/bundle tests/golden "caption en" captions

`batch` is made for long runs: after an interruption, the same command continues. An image that cannot be read
fails only its row. It needs the extra `parquet`; docs/batch.md has tables, tars, shards and Ray.
"""

import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

FAILED_ROWS = 7  # exit code of a run that finished with failed rows


def main(bundle: str, images: str, prompt: str, output: str) -> None:
    """Run the batch and print its table."""
    command = ["paligemma-onnx", "batch", "--model", bundle, "--input", images, "--prompt", prompt]
    code = subprocess.run([*command, "--output", output, "--format", "parquet"], check=False).returncode
    if code not in (0, FAILED_ROWS):
        sys.exit(code)  # the command has printed the reason
    table = pq.read_table(sorted(Path(output).glob("*.parquet")))  # a part has 1,000 rows
    answered = table.filter(pc.is_null(table["error"]))
    for row in answered.select(["path", "text"]).to_pylist():
        print(f"{row['path']}: {row['text']}")
    print(f"{answered.num_rows} answers, {table.num_rows - answered.num_rows} failed rows")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
