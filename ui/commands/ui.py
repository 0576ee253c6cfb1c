"""`assistant ui`: the chat page in a browser."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import click

from assistant.errors import InputError, MissingExtraError

__all__ = ["ui"]

APP = Path(__file__).parents[1] / "page" / "app.py"
MODEL = "ASSISTANT_PAGE_MODEL"  # read by the page
CONFIG = {
    "browser.gatherUsageStats": "false",
    "server.address": "localhost",
    "server.maxUploadSize": "200",  # MB
    "server.fileWatcherType": "none",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.primaryColor": "#d6336c",
    "theme.baseRadius": "medium",
}


@click.command()
@click.option("--model", default="default", show_default=True, help="A hub id, a directory, or the embedded default.")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True, metavar="N")
@click.option("--no-browser", is_flag=True, help="Do not open a browser; the address is printed.")
def ui(model: str, port: int, no_browser: bool) -> int:
    """Chat with pictures in a browser. The page listens to this computer alone; ctrl-c ends it."""
    if importlib.util.find_spec("streamlit") is None:
        raise MissingExtraError("streamlit", "ui")
    if not model.strip():
        raise InputError("--model is empty; name a model, or leave it out")
    process = subprocess.Popen(command(port, no_browser), env={**os.environ, MODEL: model})
    try:
        return process.wait()
    except KeyboardInterrupt:  # the page got it, too
        process.wait()
        return 0
    finally:
        process.terminate()


def command(port: int, no_browser: bool) -> list[str]:
    """The command that serves the page."""
    config = {**CONFIG, "server.port": str(port), "server.headless": str(no_browser).lower()}
    settings = [f"--{name}={value}" for name, value in config.items()]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *settings]
