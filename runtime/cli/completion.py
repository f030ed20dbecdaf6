"""`completion`: what makes a shell complete commands, options, files and folders."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

PROGRAM = "paligemma-onnx"
VARIABLE = (
    "_PALIGEMMA_ONNX_COMPLETE"  # by which the script asks the program, as click derives it from the name
)
SHELLS = ("bash", "zsh", "fish")


def complete_folders(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Has the shell complete names of folders; whether the name is one is checked when the command runs."""
    return [CompletionItem(incomplete, type="dir")]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options, files and folders.

    \b
    bash   source <(paligemma-onnx completion bash)    in ~/.bashrc
    zsh    source <(paligemma-onnx completion zsh)     in ~/.zshrc, behind compinit
    fish   paligemma-onnx completion fish | source     in ~/.config/fish/config.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # click has a class for each of SHELLS
    click.echo(made(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
