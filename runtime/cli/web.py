"""The `web` command: write a website that runs a bundle in the browser, and serve it on this machine."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from ..console import echo, echo_stderr, printable
from ..errors import OptionError
from ..website.server import HOST, open_server
from ..website.site import site_files, write_site
from .completion import complete_folders
from .parameters import BUNDLE, PACKAGES, PathType


@click.command()
@BUNDLE
@click.option(
    "--output",
    metavar="SITE",
    type=PathType(),
    shell_complete=complete_folders,
    help="Folder to write the website to. Required without --serve.",
)
@click.option("--force", is_flag=True, help="Replace an existing website in the output folder.")
@click.option("--serve", is_flag=True, help=f"Serve the website on {HOST} until Ctrl-C.")
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=8000,
    help="TCP port of --serve; 0: any free port.",
)
@PACKAGES
def web(bundle: Path, output: Path | None, force: bool, serve: bool, port: int, packages: Path) -> None:
    """Write a website that runs BUNDLE in the browser.

    The website is a folder of static files: a page, onnxruntime-web and the bundle. A web server needs no
    Python, and images do not leave the browser. onnxruntime-web comes from npm: run `npm install
    onnxruntime-web` first. With --serve and without --output, no files are written.
    """
    if output is None and not serve:
        raise OptionError("nothing to do; name a folder with --output, or serve the website with --serve")
    files = site_files(bundle, packages, echo_stderr)
    served = files if output is None else {name: output / name for name in files}
    with open_server(served, port) if serve else nullcontext() as server:  # first: the port may be in use
        if output is not None:
            write_site(files, output, force=force)
            size = sum(path.stat().st_size for path in served.values())
            echo(printable(f"{output}: a website with {len(served)} files, {size / 1e9:.2f} GB"))
        if server is not None:
            echo(f"http://{HOST}:{server.server_port}/")
            echo_stderr("Ctrl-C ends the server")
            server.serve_forever()
