"""Chromium and a web server, for tests of the page that export writes."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mindcv_ghost.errors import UserError
from mindcv_ghost.export.web.npm_package import onnxruntime_web
from tests.helpers.web_server import running

# Debian's, Ubuntu's, and what GitHub's runners have.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A camera that shows a moving test picture.
CAMERA = ("--use-fake-device-for-media-stream",)


def needs_browser() -> str:
    """Return Chromium's path, or skip the test. With MINDCV_GHOST_NEEDS_BROWSER=1 fail instead."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    problem = "" if program else f"none of {', '.join(PROGRAMS)} is installed"
    if program:
        try:
            onnxruntime_web()
        except UserError as error:
            problem = str(error)
    if not problem:
        return str(program)
    if os.environ.get("MINDCV_GHOST_NEEDS_BROWSER") == "1":
        pytest.fail(problem)
    pytest.skip(problem)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium; yield Playwright's browser."""
    program = needs_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CAMERA)
        try:
            yield browser
        finally:
            browser.close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers drop connections when a page is closed."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yield the address, and the list of paths that were asked for."""
    handler = functools.partial(_Handler, directory=str(folder))
    server = _Server(("127.0.0.1", 0), handler)
    asked: list[str] = []
    server.asked = asked  # type: ignore[attr-defined]
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}/", asked
