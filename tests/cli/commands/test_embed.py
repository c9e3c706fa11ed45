"""`miner embed`, `miner rerank` and `miner tokenize` against servers on the wire, and in-process on a real engine."""

import json

import numpy as np
import pytest

from tests.cli.pty_screen import screen_of
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.process

RANKED = {
    "results": [{"index": 1, "relevance_score": 2.5}, {"index": 0, "relevance_score": -1.0}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}


@pytest.fixture
def server():
    with in_thread(StubServer(["m"])) as running:
        yield running


# Vectors: the stub's are the length of the text, 1 and 0.


def test_a_row_for_each_text(miner, server):
    done = miner("embed", "--url", server.url, "ab", "-m", "m", "four\nwords")
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.decode().splitlines()] == [
        ["DIMENSIONS", "VECTOR", "TEXT"],
        ["3", "[2.0000,", "1.0000,", "0.0000]", "ab"],
        ["3", "[10.0000,", "1.0000,", "0.0000]", "four", "words"],
    ]
    assert done.stderr == b"By m. All values: --json, or --output FILE.npy.\n"


def test_a_block_for_each_text_on_a_narrow_terminal(server, tmp_path):
    text = "a long text that does not fit into a line of forty columns"
    lines, status = screen_of(["embed", "--url", server.url, text, "b", "-q"], width=40, directory=tmp_path)
    assert status == 0
    assert lines[:7] == [
        "DIMENSIONS  3", "VECTOR      [58.0000, ...]", "TEXT        a long text that does no...", "",
        "DIMENSIONS  3", "VECTOR      [1.0000, ...]", "TEXT        b",
    ]  # fmt: skip


def test_lines_of_standard_input_and_of_a_file(miner, server):
    (miner.directory / "lines.txt").write_text("one\n\nthree\n")
    url = ["--url", server.url, "--json"]
    done = miner("embed", *url, stdin="ä\r\n  \nsecond\n".encode())
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [each["text"] for each in answer["embeddings"]] == ["ä", "second"]
    assert [each["index"] for each in answer["embeddings"]] == [0, 1]
    assert answer["embeddings"][1]["embedding"] == [6.0, 1.0, 0.0]
    assert (answer["model"], answer["dimensions"]) == ("m", 3)
    done = miner("embed", *url, "zero", "--input", "lines.txt", stdin=b"not read\n")
    assert [each["text"] for each in json.loads(done.stdout)["embeddings"]] == ["zero", "one", "three"]
    done = miner("embed", *url, "zero", "-", stdin=b"read\n")
    assert [each["text"] for each in json.loads(done.stdout)["embeddings"]] == ["zero", "read"]


def test_many_texts_are_sent_in_batches(miner, server):
    done = miner("embed", "--url", server.url, "--output", "v.npy", stdin=b"word\n" * 150)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Wrote 150 vectors of 3 dimensions to v.npy" in done.stderr
    array = np.load(miner.directory / "v.npy")
    assert (array.shape, array.dtype) == ((150, 3), np.float32)
    assert array[149].tolist() == [4.0, 1.0, 0.0]


def test_files_of_vectors(miner, server):
    for name in ("v.json", "v.jsonl"):
        assert miner("embed", "--url", server.url, "-o", name, "a", "bc").returncode == 0
    whole = json.loads((miner.directory / "v.json").read_text())
    rows = [json.loads(line) for line in (miner.directory / "v.jsonl").read_text().splitlines()]
    assert whole["embeddings"] == rows
    assert rows[1] == {"index": 1, "text": "bc", "embedding": [2.0, 1.0, 0.0]}


def test_similar_texts_first(miner, server):
    done = miner("embed", "--url", server.url, "--similar", "abcd", "x" * 40, "four", "a")
    assert done.returncode == 0, done.stderr
    heading, *rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert heading == ["SIMILARITY", "TEXT"]
    assert [row[1] for row in rows] == ["four", "x" * 40, "a"]
    assert rows[0][0] == "1.0000"
    done = miner("embed", "--url", server.url, "--similar", "abcd", "four", "--json")
    assert json.loads(done.stdout)["similarities"] == [{"index": 0, "text": "four", "similarity": pytest.approx(1.0)}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed"], "There is no text.\n  Such as: miner embed"),
        (["embed", " "], "A text must not be empty."),
        (["embed", "x", "--dimensions", "0"], "--dimensions must be an integer of at least 1, not 0."),
        (["embed", "x", "--dimensions", "many"], "--dimensions must be an integer of at least 1, not 'many'."),
        (["embed", "x", "--input", "no.txt"], "--input 'no.txt' cannot be read: No such file"),
        (["embed", "x", "--output", "v.csv"], "--output 'v.csv': must end in .npy, .json, .jsonl."),
        (["embed", "x", "--output", "no/v.npy"], "--output 'no/v.npy': there is no directory"),
        (["embed", "x", "--similar", "y", "--output", "v.npy"], "--output and --similar exclude each other."),
        (["embed", "x", "--dimension", "3"], "Did you mean --dimensions?"),
        (["rerank"], "There is no query."),
        (["rerank", "query"], "There is no document.\n  Such as: miner rerank"),
        (["rerank", "query", "a", "--top-n", "0"], "--top-n must be an integer of at least 1, not 0."),
        (["rerank", "query", "--file", "no.txt"], "--file 'no.txt' cannot be read"),
        (["tokenize"], "There is no text.\n  Such as: miner tokenize"),
        (["tokenize", "x", "--chat", "--ids"], "--chat and --ids exclude each other"),
        (["tokenize", "x", "--system", "y"], "--system is for --chat."),
        (["tokenize", "x", "-m", "other"], "has no model 'other'."),
    ],
)
def test_bad_input_names_the_flag_and_the_value(miner, server, arguments, words):
    done = miner(*arguments, "--url", server.url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()


# Ranks


def test_documents_by_relevance(miner, server):
    server.side = {"/v1/rerank": RANKED}
    done = miner("rerank", "--url", server.url, "cats", "a dog", "a cat", "-n", "2")
    assert (done.returncode, done.stderr) == (0, b"By m.\n")
    assert done.stdout.decode().splitlines() == [
        "  SCORE  #  DOCUMENT", " 2.5000  2  a cat", "-1.0000  1  a dog",
    ]  # fmt: skip
    done = miner("rerank", "--url", server.url, "--json", "cats", stdin=b"a dog\na cat\n")
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["query"], answer["usage"]["total_tokens"]) == ("m", "cats", 4)
    assert answer["results"] == [
        {"index": 1, "relevance_score": 2.5, "document": "a cat"},
        {"index": 0, "relevance_score": -1.0, "document": "a dog"},
    ]


def test_files_are_documents_with_their_names(miner, server):
    server.side = {"/v1/rerank": RANKED}
    for name, text in {"a.md": "of\ndogs", "b.md": "of\ncats"}.items():
        (miner.directory / name).write_text(text)
    done = miner("rerank", "--url", server.url, "cats", "--file", "a.md", "-f", "b.md", stdin=b"not read")
    assert done.returncode == 0, done.stderr
    assert "2  b.md: of cats" in done.stdout.decode()
    (miner.directory / "b.md").write_text("\n")
    done = miner("rerank", "--url", server.url, "cats", "--file", "a.md", "-f", "b.md")
    assert done.returncode == 2
    assert b"--file 'b.md' is empty." in done.stderr


def test_a_server_that_does_not_rank(miner, server):
    server.side = {"/v1/rerank": (404, {"detail": "Not Found"})}
    done = miner("rerank", "--url", server.url, "cats", "a dog")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"does not rerank: it has no /v1/rerank" in done.stderr


# Tokens


def test_the_number_of_tokens_alone_goes_to_standard_output(miner, server):
    server.side = {
        "/tokenize": {"tokens": [{"id": 1, "piece": "H"}, {"id": 7, "piece": "i\n"}, {"id": 9, "piece": [195]}]}
    }
    done = miner("tokenize", "--url", server.url, "Hi", "there")
    assert (done.returncode, done.stdout) == (0, b"3\n")
    assert done.stderr == b"3 tokens of m, 0.1% of its context of 2048.\n"
    assert miner("tokenize", "--url", server.url, "--ids", "-q", "Hi").stdout == b"1 7 9\n"
    done = miner("tokenize", "--url", server.url, "--pieces", "Hi")
    assert done.stdout.decode().splitlines() == ["ID  PIECE", ' 1  "H"', ' 7  "i\\n"', " 9  <C3>"]
    done = miner("tokenize", "--url", server.url, "--pieces", "--json", "Hi")
    answer = json.loads(done.stdout)
    assert answer["tokens"][2] == {"id": 9, "piece": "�", "bytes": [195]}
    assert {name: answer[name] for name in ("model", "count", "chat", "context_length")} == {
        "model": "m", "count": 3, "chat": False, "context_length": 2048,
    }  # fmt: skip


def test_a_conversation_is_counted_with_its_template(miner, server):
    server.side = {"/v1/responses/input_tokens": {"object": "response.input_tokens", "input_tokens": 31}}
    done = miner("tokenize", "--url", server.url, "--chat", "--system", "Be brief.", "Hi", stdin=b"a diff\n")
    assert (done.returncode, done.stdout) == (0, b"31\n")


def test_ollama_has_no_such_route(miner, server):
    done = miner("tokenize", "--backend", "ollama", "-m", "m", "Hi", OLLAMA_BASE_URL=server.url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"ollama does not tell the tokens of a text.\n  A response has the count" in done.stderr


# On a real engine


@pytest.mark.engine
def test_in_process_the_models_that_can_are_named(miner, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    write_tiny_model(models / "tiny.gguf")
    settings = {"MODELS_DIR": str(models), "LLAMACPP_THREADS": "1", "LLAMACPP_PARALLEL": "1"}
    done = miner("tokenize", "-m", "tiny", "--pieces", "--json", "ab", **settings)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [token["piece"] for token in answer["tokens"]][-2:] == ["a", "b"]
    assert answer["count"] == len(answer["tokens"])
    chat = miner("tokenize", "-m", "tiny", "--chat", "--json", "ab", **settings)
    assert json.loads(chat.stdout)["count"] > answer["count"]
    for command in (["embed", "x"], ["rerank", "x", "y"]):
        done = miner(*command, "-m", "tiny", **settings)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"model 'tiny' does not support" in done.stderr
        assert b"No model here can. Get one: miner pull hf:" in done.stderr
