"""Kills, concurrent readers and damaged files; `python -m training.benchmarks.faults` does the same at length."""

import os

import pytest

from training.benchmarks.faults import fuzz_files, kill_saves, read_while_updating

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")


@pytest.mark.slow
def test_a_killed_save_leaves_the_old_or_the_new_state(tmp_path):
    seen = kill_saves(tmp_path / "index", 50)
    assert seen["killed"] > 10 and seen["old state"] and seen["new state"]


def test_readers_see_no_error_while_products_change(tmp_path):
    assert read_while_updating(tmp_path / "index", 300)["searches in threads"] > 50


def test_damaged_files_are_refused_and_never_crash(tmp_path):
    assert fuzz_files(tmp_path, 500)["refused"] > 450
