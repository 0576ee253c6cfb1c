"""The page with a scripted model: in this process for AppTest, and served to a real browser."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from ui.commands.ui import command

ROOT = Path(__file__).resolve().parents[3]
SCREENSHOTS = ROOT / "tests" / "ui" / "screenshots"
APP = ROOT / "ui" / "page" / "app.py"


@pytest.fixture(autouse=True)
def scripted(monkeypatch, tmp_path):
    """A home of its own, and a model without weights that tells what it was asked."""
    monkeypatch.setenv("ASSISTANT_PAGE_MODEL", "scripted")
    monkeypatch.setenv("ASSISTANT_PAGE_DELAY", "0.01")
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))


@pytest.fixture
def pictures(tmp_path) -> dict[str, Path]:
    """Picture files by colour."""
    paths = {colour: tmp_path / f"{colour}.png" for colour in ("red", "blue")}
    for colour, path in paths.items():
        Image.new("RGB", (120, 90), colour).save(path)
    return paths


class Served:
    """A page that is served, and may be served again at the same address."""

    def __init__(self, home: Path, delay: float, model: str = "scripted") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://localhost:{self.port}"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {
            **os.environ,
            "ASSISTANT_HOME": str(home),
            "ASSISTANT_PAGE_MODEL": model,
            "ASSISTANT_PAGE_DELAY": str(delay),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            command(self.port, no_browser=True), env=self._environment, stdout=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=2):
                    return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < end, "the page does not start"
                time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture
def served(tmp_path) -> Iterator[Served]:
    """The page at an address, with an own home and a model that takes a while for each word."""
    page = Served(tmp_path / "home", delay=0.05)
    yield page
    page.stop()


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium of this system; Playwright's own is never fetched."""
    api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_at(chromium) -> Iterator[Callable]:
    """Opens an address of a page in a browser, as wide as it is told."""
    contexts = []

    def open_tab(address: str, width: int = 1200, height: int = 850):
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        tab.goto(address)
        tab.get_by_test_id("stChatInputTextArea").wait_for(timeout=120_000)
        return tab

    yield open_tab
    for context in contexts:
        context.close()


@pytest.fixture
def new_tab(open_at, served) -> Callable:
    """Opens the page of the scripted model."""
    return lambda width=1200, height=850, query="": open_at(served.address + query, width, height)


@pytest.fixture(scope="session")
def shoot() -> Callable:
    """Writes a screenshot under a name."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return lambda tab, name: tab.screenshot(path=SCREENSHOTS / f"{name}.png")
