"""The command line: answers on stdout, everything else on stderr.

The export side's commands are listed here and imported only when they run, so that help and `generate`
start fast and work where torch is absent.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import click

from ..console import echo_stderr
from ..errors import ProviderError
from .process import flush_or_discard, install_handlers, run_command

VARIABLES = "PALIGEMMA_ONNX"  # how the names of variables begin that set options
# name -> module, extra it needs, one line of help
COMMANDS = {
    "export": (
        "paligemma_onnx.export.cli.commands",
        "export",
        "Turn a checkpoint into a bundle of ONNX graphs.",
    ),
    "generate": ("paligemma_onnx.runtime.cli.generate", None, "Answer a prompt about images."),
    "detect": ("paligemma_onnx.runtime.cli.detect", None, "Find objects in an image, as boxes."),
    "segment": ("paligemma_onnx.runtime.cli.detect", None, "Find objects in an image, with their masks."),
    "batch": ("paligemma_onnx.runtime.cli.batch", None, "Answer about millions of images, resumable."),
    "validate": ("paligemma_onnx.export.cli.commands", "export", "Hold a bundle against its checkpoint."),
    "verify": ("paligemma_onnx.runtime.cli.bundle", None, "Check sizes, hashes, graph inputs and outputs."),
    "inspect": ("paligemma_onnx.runtime.cli.bundle", None, "Show what is in a bundle."),
    "prepare": ("paligemma_onnx.runtime.cli.bundle", None, "Make a bundle open quickly on this machine."),
    "bench": ("paligemma_onnx.runtime.cli.bench", None, "Measure a bundle on this machine."),
    "demo": ("paligemma_onnx.export.cli.commands", "export", "Make, export and ask a small model, offline."),
    "doctor": ("paligemma_onnx.runtime.cli.bundle", None, "Show versions, devices and what is missing."),
    "completion": ("paligemma_onnx.runtime.cli.completion", None, "Print what makes a shell complete."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        command: Any = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        if not isinstance(command, click.Command):
            return None
        command.epilog = _variables(cmd_name, command)
        return command

    def invoke(self, ctx: click.Context) -> int:
        """Run a command; what it raises ends here, where --debug is known, and not in click."""
        return run_command(lambda: self._invoke(ctx), debug=ctx.params["debug"])

    def _invoke(self, ctx: click.Context) -> object:
        """Run a command.

        Raises:
            ProviderError: the extra it needs is not installed.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = ctx.invoked_subcommand or ""
            extra = COMMANDS[name][1] if name in COMMANDS else None
            if extra is None or (error.name or "").startswith("paligemma_onnx"):
                raise
            raise ProviderError(
                f"`{name}` needs {error.name}: run `pip install 'paligemma-onnx[cpu,{extra}]'`"
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _variables(name: str, command: click.Command) -> str | None:
    """The rule by which variables set a command's options, with its first one as the example."""
    option = next((one for one in command.params if isinstance(one, click.Option)), None)
    if option is None or option.name is None:
        return None
    prefix = f"{VARIABLES}_{name.upper()}"
    return (
        f"Variables set options: {prefix}_OPTION, so {prefix}_{option.name.upper()} sets {option.opts[0]}; "
        "of a flag, 1 or 0."
    )


@click.group(
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": VARIABLES,
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 110,
    },
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(package_name="paligemma-onnx")
def cli(debug: bool) -> None:
    """Export PaliGemma to ONNX, and run it without torch.

    Every option can be set by an environment variable, PALIGEMMA_ONNX_COMMAND_OPTION, for example
    PALIGEMMA_ONNX_GENERATE_MODEL. Exit codes: 2 usage, 3 image or prompt, 4 checkpoint, bundle or device,
    5 memory or disk, 6 validation mismatch, 7 failed rows of a batch, 130 interrupted.
    """
    del debug  # read by LazyGroup when something goes wrong


def main() -> None:
    """Entry point of `paligemma-onnx`."""
    install_handlers()
    warnings.showwarning = lambda message, *_, **__: echo_stderr(f"warning: {message}")
    code = run_command(lambda: cli.main(prog_name="paligemma-onnx", standalone_mode=False))
    flush_or_discard()
    sys.exit(code)
