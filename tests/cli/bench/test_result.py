"""The result's JSON: what is written is what is read, and something else is refused by name."""

from __future__ import annotations

import json
import math
import shlex

import pytest

from miner.cli.bench.result import Machine, Result, Run, Sample, Target, Workload, from_json, read, to_json
from miner.cli.bench.statistics import statistics_of
from miner.cli.parser import UsageError


def a_result(**more):
    run = Run(
        name="concurrency 4", concurrency=4, prompt_length=128, max_tokens=16, requests=2, completed=1, failed=1,
        duration=1.5, errors={"429": 1}, error_examples={"429": "slow down"}, ttft=statistics_of([0.25]),
        request_throughput=0.6666666, output_throughput=10.0, total_throughput=20.0,
        samples=[Sample(start=0.0, ttft=0.25, e2e=0.5, output_tokens=16), Sample(start=0.1, error="429")],
    )  # fmt: skip
    fields = {
        "created": "2026-01-01T00:00:00Z",
        "command": "miner bench",
        "target": Target(backend="openai", url="http://x/v1", model="m"),
        "machine": Machine(cores=2, os="Linux", python="3.11.7"),
        "workload": Workload(prompt_tokens=[128], max_tokens=[16]),
        "runs": [run],
    }
    return Result(**{**fields, **more})


def test_what_is_written_is_read():
    written = to_json(a_result())
    again = from_json(written)
    assert again.runs[0].samples == a_result().runs[0].samples
    assert to_json(again) == written
    document = json.loads(written)
    assert (document["kind"], document["version"]) == ("miner-bench", 1)
    assert document["runs"][0]["itl"] is None
    assert document["runs"][0]["request_throughput"] == 0.666667


def test_fields_of_a_later_miner_are_passed_over():
    document = json.loads(to_json(a_result())) | {"weather": "fine"}
    document["runs"][0]["colour"] = "red"
    assert from_json(json.dumps(document).encode()).runs[0].concurrency == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a result of `miner bench`"),
        ("[]", "not a result of `miner bench`"),
        ('{"kind": "else"}', "its kind is 'else'"),
        ('{"kind": "miner-bench", "version": 2}', "has version 2"),
        ('{"kind": "miner-bench", "version": 1}', "damaged"),
        ("\xff\xfe", "not a result of `miner bench`"),
    ],
)
def test_something_else_is_refused_by_name(tmp_path, text, reason):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=reason) as caught:
        read(str(path))
    assert str(path) in caught.value.message


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read(str(tmp_path / "none.json"))


def test_percentiles_are_those_of_numpy():
    """numpy.percentile([1, 2, 4, 8, 16], [50, 90, 95, 99]) and numpy.std of the same."""
    found = statistics_of([16, 1, 4, 2, 8])
    assert (found.p50, found.mean, found.min, found.max, found.count) == (4, 6.2, 1, 16, 5)
    for name, value in {"p90": 12.8, "p95": 14.4, "p99": 15.68, "std": 5.455272678794342}.items():
        assert math.isclose(getattr(found, name), value)
    assert statistics_of([]) is None
    one = statistics_of([0.5])
    assert (one.mean, one.p50, one.p99, one.std) == (0.5, 0.5, 0.5, 0)


@pytest.mark.parametrize("field", ["requests", "completed", "failed", "cancelled", "duration"])
def test_less_than_nothing_is_refused(field):
    written = json.loads(to_json(a_result()))
    written["runs"][0][field] = -1
    with pytest.raises(UsageError, match="x is damaged: 'concurrency 4' has less than no requests or time"):
        from_json(json.dumps(written).encode(), name="x")


def test_a_file_without_end_is_refused():
    with pytest.raises(UsageError, match="is larger than"):
        read("/dev/zero")


def test_secrets_of_a_file_of_an_earlier_version_are_not_read():
    body = {"api_key": "sk-SECRET1", "top_k": 1, "max_tokens": 5}
    command = [
        "miner", "bench", "--url=http://u:sk-SECRET2@h/?key=sk-SECRET3", "--key", "sk-SECRET4", "--key=sk-SECRET5",
        "--extra-body", json.dumps(body), "--max-tokens", "16", "-m", "a b",
    ]  # fmt: skip
    old = a_result(command=shlex.join(command), notes=["Sent sk-SECRET1."])
    old.workload.extra_body, old.target.url = body, "http://u:sk-SECRET2@h/v1"
    old.runs[0].error_examples = {"429": "bad key sk-SECRET1"}
    found = from_json(to_json(old))
    assert b"SECRET" not in to_json(found)
    assert found.workload.extra_body == {**body, "api_key": "***"}
    assert shlex.split(found.command) == [
        "miner", "bench", "--url=http://***@h/?***", "--key", "***", "--key=***", "--extra-body",
        '{"api_key": "***", "top_k": 1, "max_tokens": 5}', "--max-tokens", "16", "-m", "a b",
    ]  # fmt: skip
    assert found.runs[0].error_examples == {"429": "bad key ***"}
    assert to_json(from_json(to_json(found))) == to_json(found)


@pytest.mark.parametrize(
    "command", ["miner bench", "miner bench --extra-body '{\"top_k\":1}'  --key -", 'miner bench -m "a b"']
)
def test_a_command_without_secrets_stays_as_it_is(command):
    assert from_json(to_json(a_result(command=command))).command == command


def test_a_command_that_no_shell_takes_is_not_shown():
    assert from_json(to_json(a_result(command="miner bench --key 'sk-SECRET"))).command == "***"
