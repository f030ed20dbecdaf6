"""`optimum-cli export paligemma-onnx`: the command `paligemma-onnx export` among optimum's exporters.

optimum imports every file of this namespace folder when `optimum-cli` starts, so the file imports only
optimum's base classes.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

# Options with a value, and flags, of `paligemma-onnx export`.
OPTIONS = (
    "precision",
    "layout",
    "dtype",
    "device",
    "adapter",
    "mask-decoder",
    "tokenizer",
    "config",
    "base-weights",
)
FLAGS = ("force", "strict", "no-validate")


class PaliGemmaOnnxExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum has no types
    """Export a PaliGemma checkpoint to a bundle of ONNX graphs with a KV cache."""

    COMMAND = CommandInfo(
        name="paligemma-onnx",
        help="Export a PaliGemma checkpoint to ONNX graphs with a KV cache (paligemma-onnx).",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the options of `paligemma-onnx export`, which describes and checks them."""
        parser.description = "The options are those of `paligemma-onnx export`; its --help describes them."
        parser.add_argument(
            "-m", "--model", required=True, help="Folder, Hub id or .npz file of the checkpoint."
        )
        parser.add_argument("output", help="Folder to write the bundle to.")
        for name in OPTIONS:
            parser.add_argument(f"--{name}", action="append", default=[], metavar="VALUE")
        for name in FLAGS:
            parser.add_argument(f"--{name}", action="store_true")

    def run(self) -> None:
        """Run `paligemma-onnx export`, and end the process with its exit code."""
        from paligemma_onnx.runtime.cli.main import main  # noqa: PLC0415  only when the command runs

        given = vars(self.args)
        sys.argv = ["paligemma-onnx", "export", given["model"], "--output", given["output"]]
        for name in OPTIONS:
            for value in given[name.replace("-", "_")]:
                sys.argv += [f"--{name}", value]
        sys.argv += [f"--{name}" for name in FLAGS if given[name.replace("-", "_")]]
        main()


REGISTER_COMMANDS = [(PaliGemmaOnnxExportCommand, ExportCommand)]
