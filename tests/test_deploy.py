"""The dashboard and the alerts in deploy/: each query parses, and asks for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from miner.gateway.telemetry.metric_table import METRICS

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "miner.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}
SHOWN = {f"{name}{suffix}": spec for name, spec in METRICS.items() for suffix in SUFFIXES[spec.type]}
OTHERS = {
    "up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
}  # fmt: skip
"""Prometheus' own, and those of the process."""
TARGET_LABELS = {"job", "instance"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


def names_in(expression):
    """Names that are no function, keyword or label of a query."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w:.])([a-z_][\w:]*)(?!\s*[\w(])", bare)) - {"and", "or", "unless", "bool"}


@pytest.mark.parametrize(("where", "expression"), [*queries()], ids=lambda value: str(value)[:60])
def test_each_query_parses_and_asks_for_what_there_is(where, expression):
    for variable in ("$__rate_interval",):
        expression = expression.replace(variable, "1m")
    promql_parser.parse(expression)
    asked = names_in(expression)
    assert asked
    assert asked <= {*SHOWN, *OTHERS}, where
    for name, matchers in SELECTOR.findall(expression):
        labels = {label for label, _ in re.findall(r"(\w+)\s*(=~|!~|!=|=)", matchers)}
        known = {*SHOWN[name].labels, "le"} if name in SHOWN else set()
        assert labels <= known | TARGET_LABELS, (where, name)
    grouped = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    known = {label for name in asked if name in SHOWN for label in SHOWN[name].labels} | TARGET_LABELS | {"le"}
    assert {label.strip() for labels in grouped for label in labels.split(",")} <= known, where


def test_the_dashboard_shows_what_an_operator_looks_for():
    shown = {name for _, expression in queries() for name in names_in(expression.replace("$__rate_interval", "1m"))}
    for name in (
        "gen_ai_server_request_duration_seconds_bucket", "gen_ai_server_time_to_first_token_seconds_bucket",
        "gen_ai_server_time_per_output_token_seconds_bucket", "miner_requests_queued", "miner_cost_total",
        "vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "miner_engine_state",
        "miner_engine_restarts_total", "miner_engine_resident_memory_bytes", "miner_client_disconnects_total",
    ):  # fmt: skip
        assert name in shown
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert {*variables} == {"datasource", "job", "instance", "model"}
    for variable in variables.values():
        if variable["type"] == "query":
            selector = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert selector
            [name] = names_in(selector[1])
            assert selector[2] in {*SHOWN[name].labels, *TARGET_LABELS}


def test_its_panels_do_not_overlap_and_have_the_chosen_data_source():
    places: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert places.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels():
        assert panel["description"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_each_alert_says_what_is_wrong_and_what_to_do():
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]


def test_the_examples_of_configurations_are_files_that_can_be_read():
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert [(DEPLOY / "prometheus" / name).is_file() for name in scrape["rule_files"]] == [True]
    [job] = scrape["scrape_configs"]
    assert f'job="{job["job_name"]}"' in next(query for where, query in queries() if where == "alert MinerDown")
    for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
