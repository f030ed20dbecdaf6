"""The `completion` command: print a shell's script that completes commands, options, files and folders."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from ..console import echo

PROGRAM = "paligemma-onnx"
# Environment variable that the script sets when it calls the program. click derives the variable's name from
# the program's name.
VARIABLE = "_PALIGEMMA_ONNX_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def complete_folders(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Let the shell complete names of folders. The command itself checks whether the folder exists."""
    return [CompletionItem(incomplete, type="dir")]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that enables tab completion in SHELL.

    To enable it permanently, add the line for your shell to the file named after it:

    \b
    bash   source <(paligemma-onnx completion bash)    ~/.bashrc
    zsh    source <(paligemma-onnx completion zsh)     ~/.zshrc, after compinit
    fish   paligemma-onnx completion fish | source     ~/.config/fish/config.fish
    """
    completion_class = get_completion_class(shell)
    assert completion_class is not None  # click has a class for each of SHELLS
    echo(completion_class(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
