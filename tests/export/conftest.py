"""The synthetic embeddings that selection is tested on."""

from tests.selection.conftest import synthetic as synthetic
