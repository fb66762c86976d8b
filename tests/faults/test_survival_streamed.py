"""As test_survival.py, with images that are streamed; a file of its own, so that the two run side by side."""

import pytest

from tests.faults.test_survival import KILLS, killed


@pytest.mark.soak
@pytest.mark.timeout(900 + 20 * KILLS)
def test_killed_at_random_moments_a_streamed_run_ends_as_an_unbroken_one(server, digits_npz, tmp_path, capsys):
    killed("streamed", KILLS - KILLS * 3 // 4, server, digits_npz, tmp_path, capsys)
