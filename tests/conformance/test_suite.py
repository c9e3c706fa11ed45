"""The conformance suite passes what is right and catches what is not."""

from __future__ import annotations

import pytest

from tests.conformance.running import (
    conformance,
    failed_tests,
    outputs,
    register_small_engines,
    unchecked_tests,
)

pytestmark = pytest.mark.process

QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "miner.conformance.plugin"}
"""Other distributions' plugins take seconds to load; that ours is found by its entry point is seen in other tests."""

CAUGHT = [
    ("swallows", "test_same_seed_same_text"),
    ("swallows_stop", "test_stop_stops"),
    ("loses_held", "test_partial_stop_string_is_not_lost"),
    ("loses", "test_stream_joins_to_the_response"),
    ("leaks", "test_leaving_frees_the_slot"),
    ("wrong_usage", "test_max_tokens_is_kept"),
    ("blocks", "test_event_loop_is_not_blocked"),
    ("takes_anything", "test_unknown_model_is_refused"),
    ("cuts_prompt", "test_a_prompt_that_is_too_long_is_refused"),
    ("takes_prefix", "test_a_name_is_exact"),
    ("takes_suffix", "test_a_name_is_exact"),
    ("key_error", "test_unknown_model_is_refused"),
    ("embeds_with_another", "test_vectors_come_from_the_model_that_was_named"),
    ("extra_overrides", "test_extra_overrides_nothing"),
    ("counts_nothing", "test_usage_adds_up"),
    ("own_finish_reason", "test_chat_gives_a_response"),
    ("wrong_stop", "test_stop_stops"),
    ("strict_fields", "test_messages_of_real_clients_are_accepted"),
    ("breaks_schema", "test_schema_is_enforced_or_refused"),
    ("refuses_schema_late", "test_schema_is_enforced_or_refused"),
    ("refuses_schema_namelessly", "test_schema_is_enforced_or_refused"),
    ("own_stream", "test_another_task_closes_a_stream"),
    ("drops_images", "test_images_are_read_or_refused"),
    ("always_reasons", "test_reasoning_stays_out_of_the_content"),
    ("shows_markup", "test_tools_are_offered_or_refused"),
    ("empty_progress", "test_progress"),
    ("counts_one", "test_token_counts"),
    ("equal_scores", "test_documents_are_ranked_or_refused"),
    ("ignores_declared", "test_each_option_is_accepted_or_refused_by_name"),
    ("ignores_positions", "test_generate_takes_positional_arguments"),
    ("empty_default", "test_generate_has_defaults"),
    ("first_part", "test_text_parts_are_joined"),
    ("mixes", "test_requests_run_at_once"),
    ("cuts_characters", "test_unicode_survives"),
    ("slow_health", "test_health_has_state_and_latency"),
    ("names_another", "test_response_names_backend_and_model"),
]
UNCHECKED = [
    ("right", "test_unicode_survives"),
    ("never_reasons", "test_reasoning_stays_out_of_the_content"),
    ("swallows_penalty", "test_penalties_change_the_reply"),
    ("calls_no_tool", "test_tools_are_offered_or_refused"),
    ("no_usage", "test_usage_adds_up"),
    ("lists_nothing", "test_models_are_listed"),
    ("instant", "test_leaving_frees_the_slot"),
    ("right", "test_a_model_is_loaded"),
]
BLOCK = [("blocks_first", f"test_event_loop_is_not_blocked and {verb}") for verb in ("stream", "list_models", "health")]
GO_ON = [
    ("shields", "test_interrupted_calls_free_the_engine and cancel"),
    ("leaves_running", "test_interrupted_calls_free_the_engine and cancel"),
    ("leaves_running", "test_interrupted_calls_free_the_engine and aclose"),
    ("leaves_stream", "test_interrupted_calls_free_the_engine and leave"),
    ("hangs_on_close", "test_interrupted_calls_free_the_engine and aclose"),
]


async def test_a_right_backend_passes(tmp_path):
    register_small_engines(tmp_path)
    status, output = await conformance(tmp_path, "right")
    assert status == 0, output[-3000:]
    assert "capabilities of right" in output
    assert "seed                 passed" in output
    assert "tools                unsupported" in output


@pytest.mark.parametrize("runs", [CAUGHT, BLOCK, GO_ON], ids=["broken", "blocking", "going-on"])
async def test_broken_backends_are_caught(tmp_path, runs):
    register_small_engines(tmp_path)
    found = await outputs(tmp_path, runs)
    assert {run: out for run, out in found.items() if run[1].split()[0] not in failed_tests(out)} == {}


async def test_what_proves_nothing_is_not_checked(tmp_path):
    """A backend that passes only since there was nothing to check is reported as that, and not as a pass."""
    register_small_engines(tmp_path)
    found = await outputs(tmp_path, UNCHECKED)
    assert {run: out for run, out in found.items() if failed_tests(out) or run[1] not in unchecked_tests(out)} == {}


async def test_what_can_be_stopped_is_stopped(tmp_path):
    """The same tests pass a backend of that speed that is right: they catch no others than the broken."""
    register_small_engines(tmp_path)
    status, output = await conformance(tmp_path, "slow", "-k", "test_stopping", env=QUICK)
    assert status == 0, output[-3000:]
    assert "not checked" not in output


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
    assert "| tools | unsupported | unsupported |" in rows
