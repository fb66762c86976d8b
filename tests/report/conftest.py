"""Fixtures for tests of the page."""

import functools
import io

import pytest
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
