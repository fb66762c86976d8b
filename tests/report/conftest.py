"""Fixtures for tests of the page."""

import functools
import io
import os
import shutil

import pytest
from browsing import Opened
from matplotlib.figure import Figure


@functools.cache
def _pdf(write, **options) -> bytes:
    """A PDF of an empty figure."""
    figure, file = Figure(), io.BytesIO()
    write(figure, file, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def quick_pdfs():
    """PDFs are those of an empty figure: half of a report's time goes into their fonts. test_compare.py has real ones."""
    write = Figure.savefig

    def savefig(figure, file, *, format, **options):
        if format == "pdf":
            file.write(_pdf(write, format=format))
        else:
            write(figure, file, format=format, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


@pytest.fixture(scope="module")
def chromium():
    """The browser; tests are skipped without Playwright or Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api.expect.set_options(timeout=120_000)
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(chromium):
    contexts = []

    def open_report(workdir, size=(1440, 900), **options):
        contexts.append(chromium.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), **options))
        contexts[-1].set_default_timeout(120_000)
        return Opened(contexts[-1], workdir)

    yield open_report
    for context in contexts:
        context.close()
