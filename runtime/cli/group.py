"""The commands of `paligemma-onnx`: results on stdout, everything else on stderr.

The module of a command is imported only when the command runs. So the help and `generate` start fast and work
without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from ..errors import OptionError, ProviderError
from .process import NO_WORKING_FOLDER, has_working_folder, run_command

VARIABLES = "PALIGEMMA_ONNX"  # prefix of the environment variables that set options
_EXPORT = "paligemma_onnx.export.cli.commands"
_RUNTIME = "paligemma_onnx.runtime.cli"
# name -> module, extra that it needs, one-line summary
COMMANDS = {
    "export": (_EXPORT, "export", "Convert a PaliGemma checkpoint to a bundle of ONNX graphs."),
    "generate": (f"{_RUNTIME}.generate", None, "Answer a prompt about one or more images."),
    "detect": (f"{_RUNTIME}.detect", None, "Find objects and print their bounding boxes."),
    "segment": (f"{_RUNTIME}.detect", None, "Find objects and print their boxes and masks."),
    "batch": (f"{_RUNTIME}.batch", None, "Answer a prompt about many images; resumable."),
    "validate": (_EXPORT, "export", "Compare a bundle with the checkpoint it was exported from."),
    "verify": (f"{_RUNTIME}.bundle", None, "Verify that a bundle is complete and unchanged."),
    "inspect": (f"{_RUNTIME}.bundle", None, "Show a bundle's contents and the memory it needs."),
    "prepare": (f"{_RUNTIME}.bundle", None, "Optimize a bundle for this CPU so that it loads faster."),
    "bench": (f"{_RUNTIME}.bench", None, "Measure a bundle's speed and memory on this machine."),
    "conformance": (f"{_RUNTIME}.conformance", None, "Run graphs in other ONNX runtimes and compare."),
    "web": (f"{_RUNTIME}.web", None, "Write a website that runs a bundle in the browser, or serve it."),
    "demo": (_EXPORT, "export", "Export and run a small included model; needs no download."),
    "doctor": (f"{_RUNTIME}.bundle", None, "Check the installation and this machine."),
    "completion": (f"{_RUNTIME}.completion", None, "Print a script for tab completion in a shell."),
}


class LazyGroup(click.Group):
    """A group of commands that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command and return it. If the name is unknown, return None."""
        if cmd_name not in COMMANDS:
            return None
        command: Any = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        if not isinstance(command, click.Command):
            return None
        command.epilog = _variables(cmd_name, command)
        return command

    def invoke(self, ctx: click.Context) -> int:
        """Run a command and return its exit code. Exceptions are handled here, where --debug is known."""
        return run_command(lambda: self._invoke(ctx), debug=ctx.params["debug"])

    def _invoke(self, ctx: click.Context) -> object:
        """Run a command.

        Raises:
            ProviderError: the command needs an extra that is not installed.
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
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])


def _variables(name: str, command: click.Command) -> str | None:
    """Return help text on environment variables, with the command's first option as the example.

    If the command has no option, return None.
    """
    option = next((param for param in command.params if isinstance(param, click.Option)), None)
    if option is None or option.name is None:
        return None
    variable = f"{VARIABLES}_{name.upper()}_{option.name.upper()}"
    return (
        f"Environment variables can set all options: {variable} sets {option.opts[0]}, and so on. "
        "For flags, 1 means on and 0 means off."
    )


@click.group(
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": VARIABLES,
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 110,
    },
    epilog=f"Environment variables can set all options. The name is {VARIABLES}_COMMAND_OPTION: for example, "
    f"{VARIABLES}_GENERATE_MODEL sets the option --model of generate. Exit codes: 0 success, 1 unexpected "
    "error, 2 invalid usage, 3 unusable image or prompt, 4 unusable checkpoint, bundle or device, 5 out of "
    "memory or disk, 6 validation or conformance failed, 7 failed rows in a batch, 130 interrupted, 143 "
    "terminated.",
)
@click.option("--debug", is_flag=True, help="Print a traceback with every error.")
@click.version_option(package_name="paligemma-onnx")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Export PaliGemma vision-language models to ONNX, and run them without PyTorch.

    `export` converts a checkpoint to a bundle: a folder with ONNX graphs, weights, tokenizer and manifest.
    The other commands run, check or measure a bundle; only `validate` and `demo` need PyTorch, too.

    Run `paligemma-onnx COMMAND --help` for the options of a command.
    """
    del debug  # LazyGroup.invoke reads --debug from the context
    module, _, _ = COMMANDS[str(ctx.invoked_subcommand)]
    if module == _EXPORT and not has_working_folder():
        raise OptionError(NO_WORKING_FOLDER)  # torch ends the process there with a message of its own
