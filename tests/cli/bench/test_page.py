"""The page of `--html`: what is in it, that it loads nothing, and that what it shows cannot become code."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from miner.cli.bench.report import units
from miner.cli.bench.report.html.page import page
from miner.cli.bench.result import to_json
from miner.cli.main import run
from tests.cli.bench.results import a_result, a_run

VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = "\"><img src=x onerror=alert(1)><script>alert('x')</script>\u202e</title></style>&amp;"


class Tree(HTMLParser):
    """Elements of a page with their attributes, and its text; unbalanced tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


OBJECTIVE = {"ttft": 0.5}


def runs(**settings):
    return [a_run(concurrency=each, objective=OBJECTIVE, **settings) for each in (1, 4, 16)]


@pytest.fixture(scope="module")
def one():
    notes = ["This process was late by up to 11 ms"]
    return Tree(page([a_result(runs(), objective=OBJECTIVE, notes=notes)], ["a.json"]))


@pytest.fixture(scope="module")
def two():
    base = a_result(runs(), objective=OBJECTIVE)
    new = a_result(runs(step=0.009, seed=2, failing=0.2), engine="vLLM 0.32.0", objective=OBJECTIVE)
    return Tree(page([base, new], ["a.json", "b.json"]))


def test_the_page_loads_nothing_and_only_its_own_script_and_style_may_run():
    text = page([a_result()], ["a.json"])
    tree = Tree(text)
    policy = next(each["content"] for each in tree.of("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (source,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    names = {name for _, attributes in tree.elements for name in attributes}
    assert not {"src", "href", "style", "srcset", "action"} & names
    assert not any(name.startswith("on") for name in names)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML|eval\(", text)
    # Addresses stand there as text alone.
    assert set(re.findall(r"https?://[^\s<\"&]+", text)) == {"http://127.0.0.1:8000"}


def test_the_page_is_small_without_its_data():
    empty = a_result([a_run(requests=2, keep=False)])
    assert len(page([empty], ["a.json"]).encode()) < 60_000


def test_hostile_names_and_messages_are_text():
    bad = a_result([a_run(failing=0.5), a_run(concurrency=8, objective=OBJECTIVE)], engine=HOSTILE, notes=[HOSTILE])
    bad.target.model = bad.target.url = bad.command = bad.machine.cpu = HOSTILE
    bad.machine.gpus = [HOSTILE]
    bad.objective = {HOSTILE: 1.0}
    bad.runs[0].name = HOSTILE
    bad.runs[0].errors = {HOSTILE: 3}
    bad.runs[0].error_examples = {HOSTILE: HOSTILE}
    other = a_result(engine=HOSTILE + "2")
    for results, names in (([bad], [HOSTILE]), ([bad, other], [HOSTILE, HOSTILE]), ([other, bad], ["a", "b"])):
        tree = Tree(page(results, names))
        assert tree.of("img") == []
        assert len(tree.of("script")) == 1
        assert not any(name.startswith("on") for _, attributes in tree.elements for name in attributes)
        assert "<script>alert('x')</script>" in tree.text
        assert "\u202e" not in tree.text


def test_one_result_has_its_plots_with_words_for_who_does_not_see_them(one):
    titles = ["Throughput against latency", "Latencies of the requests", "Tokens per second over time", "Goodput",
              "Errors", "All figures", "What was measured, and where", "What the figures mean"]  # fmt: skip
    places = [one.text.index(title) for title in titles]
    assert places == sorted(places)
    charts = [each for each in one.of("svg") if "data-chart" in each]
    assert len(charts) == 3 + 4 + 1 + 1
    for chart in charts:
        assert chart["role"] == "img"
        assert len(chart["aria-label"]) > 40
        lines = json.loads(chart["data-chart"])["lines"]
        assert lines
        assert all(0 <= x <= 460 and 0 <= y <= 300 and tip for line in lines for x, y, tip in line["points"])
    assert all(each.get("aria-hidden") == "true" or each.get("role") == "img" for each in one.of("svg"))


def test_the_page_says_what_was_measured_where_and_how_to_do_it_again(one):
    result = a_result()
    for words in (
        "smollm2-135m-instruct", "llama.cpp b7204", "AMD EPYC 9B14, 8 cores, 64.0 GiB of memory", "NVIDIA H100 80GB",
        result.command, "prompts of 128 tokens", "Read this first", "This process was late by up to 11 ms",
        "From sending a request to the first token", "The objective: TTFT of at most 500 ms",
        "None of 192 requests failed",
    ):  # fmt: skip
        assert words in one.text


def test_every_figure_of_the_runs_is_in_the_table(one):
    for each in runs():
        for statistics in (each.ttft, each.tpot, each.itl, each.e2e):
            for point in ("mean", "p50", "p90", "p99"):
                assert units.seconds(getattr(statistics, point)) in one.text
        assert units.number(each.output_throughput) in one.text


def test_lines_are_told_apart_by_more_than_colour(two):
    dashes = [each.get("stroke-dasharray") for each in two.of("path") if each.get("class") == "line"]
    assert len(set(dashes)) > 1
    assert {"circle", "polygon"} <= {name for name, _ in two.elements}
    assert all(sign in two.text for sign in ("▲ better", "? too few requests to tell"))


def test_two_results_stand_side_by_side_and_are_compared(two):
    for words in (
        "llama.cpp b7204 and vLLM 0.32.0", "vLLM 0.32.0 against llama.cpp b7204, in short",
        "ratio, with 95 % interval", "Latencies at concurrency 1", "Latencies at concurrency 16", "At concurrency 4",
        "Example of overloaded",
    ):  # fmt: skip
        assert words in two.text
    assert two.of("rect"), "the share that failed is drawn"


def test_results_of_one_engine_have_the_names_of_their_files():
    tree = Tree(page([a_result(), a_result(), a_result()], ["runs/before.json", "runs/after.json", "this run"]))
    assert "after against before, in short" in tree.text
    same = Tree(page([a_result(), a_result()], ["x/a.json", "y/a.json"]))
    assert "2: y/a.json against 1: x/a.json" in same.text


@pytest.mark.parametrize(
    "made",
    [
        [],
        [a_run(failing=1.0)],
        [a_run(requests=1)],
        [a_run(requests=1, max_tokens=1)],
        [a_run(keep=False), a_run(concurrency=8, keep=False)],
        [a_run(concurrency=None, request_rate=each) for each in (0.5, 2.0)],
        [a_run(round=each) for each in (1, 2, 3)],
        [a_run(concurrency=each) for each in range(1, 20)],
        [a_run(prompt_length=each, max_tokens=other) for each in (64, 512) for other in (16, 64)],
        [a_run(cancelling=0.5)],
    ],
    ids=["nothing", "all failed", "one request", "one token", "no samples", "rates", "rounds", "many loads", "lengths",
         "cancelled"],
)  # fmt: skip
def test_whatever_was_measured_has_a_page(made):
    result = a_result(made)
    for results in ([result], [result, result], [a_result(), result], [result, a_result()]):
        tree = Tree(page(results, [f"{number}.json" for number in range(len(results))]))
        for chart in tree.of("svg"):
            assert "nan" not in str(chart)
            assert "inf" not in chart.get("data-chart", "")


def test_a_measurement_without_times_has_a_page():
    zero = a_run()
    for sample in zero.samples:
        sample.ttft = sample.e2e = sample.tpot = 0.0
    zero.duration = 0.0
    zero.timeline = []
    Tree(page([a_result([zero])], ["a.json"]))


def test_the_command_writes_the_page_of_saved_results(tmp_path, capsys):
    names = []
    for name, engine in (("a", "llama.cpp b7204"), ("b", "vLLM 0.32.0")):
        path = tmp_path / f"{name}.json"
        path.write_bytes(to_json(a_result(engine=engine)))
        names.append(str(path))
    target = tmp_path / "out.html"
    assert run(["bench", "--html", str(target), "--compare", *names]) == 0
    assert str(target) in capsys.readouterr().err
    assert "vLLM 0.32.0 against llama.cpp b7204" in Tree(target.read_text()).text


def test_a_page_that_cannot_be_written_is_an_error_before_anything_is_measured(tmp_path, capsys):
    assert run(["bench", "--html", str(tmp_path)]) == 2
    assert run(["bench", "--html", str(tmp_path / "no" / "x.html")]) == 2
    assert "is a directory" in capsys.readouterr().err
