"""The conformance suite passes what is right and catches what is not."""

from __future__ import annotations

import pytest

from tests.conformance.running import conformance, failed_tests, register_small_engines

QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "miner.conformance.plugin"}
"""Other distributions' plugins take seconds to load; that ours is found by its entry point is seen in other tests."""

CAUGHT = [
    ("swallows", "test_same_seed_same_text"),
    ("swallows_stop", "test_stop_stops"),
    ("loses_held", "test_text_that_might_have_become_a_stop_string_is_not_lost"),
    ("loses", "test_stream_joins_to_the_whole"),
    ("leaks", "test_leaving_frees_the_slot"),
    ("wrong_usage", "test_max_tokens_is_kept"),
    ("blocks", "test_the_loop_is_not_blocked"),
    ("takes_anything", "test_unknown_model_is_refused"),
    ("cuts_prompt", "test_a_prompt_that_is_too_long_is_refused"),
]


async def test_a_right_backend_passes(tmp_path):
    register_small_engines(tmp_path)
    status, output = await conformance(tmp_path, "right")
    assert status == 0, output[-3000:]
    assert "what right does" in output
    assert "seed                 passes" in output
    assert "tools                refused as declared" in output


@pytest.mark.parametrize(("backend", "test"), CAUGHT)
async def test_a_broken_backend_is_caught(tmp_path, backend, test):
    register_small_engines(tmp_path)
    status, output = await conformance(tmp_path, backend, "-k", test, "-x", "--miner-patience", "10", env=QUICK)
    assert status == 1, output[-3000:]
    assert test in failed_tests(output)


@pytest.mark.parametrize("name", ["no-such-backend", ""])
async def test_a_backend_that_is_not_there_is_a_usage_error(tmp_path, name):
    """Exit 4, and never another backend in its place."""
    status, output = await conformance(tmp_path, name)
    assert status == 4, output
    assert "--miner-backend" in output


async def test_the_suite_has_enough_tests(tmp_path):
    register_small_engines(tmp_path)
    status, output = await conformance(tmp_path, "right", "--collect-only")
    assert status == 0
    assert sum("::" in line for line in output.splitlines()) >= 30


async def test_the_matrix_keeps_a_column_for_each_backend(tmp_path):
    register_small_engines(tmp_path)
    table = tmp_path / "matrix.md"
    for backend in ("right", "takes_anything", "right"):
        await conformance(tmp_path, backend, "-k", "tools or json_object", "--miner-matrix", str(table), env=QUICK)
    rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert rows[0] == "| capability | right | takes_anything |"
    assert "| tools | refused as declared | refused as declared |" in rows
