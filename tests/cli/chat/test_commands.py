"""The commands of a chat, each on a terminal against a server on the wire."""

import json
import os
import stat

import pytest

from tests.cli.chat.terminal import CTRL_C, CTRL_D, ENTER, TAB, Terminal
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)


@pytest.fixture
def server():
    with in_thread(StubServer(models=["small", "large"])) as server:
        yield server


@pytest.fixture
def terminal(tmp_path, server):
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "small", columns=100) as terminal:
        terminal.wait(">>>")
        yield terminal


def test_model_lists_and_changes_and_keeps_the_conversation(terminal, server):
    shown = terminal.ask("/model", "LOADED")
    terminal.wait("large")
    assert "*" in shown
    terminal.ask("Hi", "2,048 (")
    terminal.ask("/model nosuch", "nosuch")
    terminal.ask("/model large", "The model is large, context 2,048 tokens.")
    terminal.ask("And?", "2,048 (")
    assert server.bodies[-1]["model"] == "large"
    assert [each["role"] for each in server.bodies[-1]["messages"]] == ["user", "assistant", "user"]


def test_system_is_set_shown_and_removed(terminal, server):
    terminal.ask("/system", "There is no system message")
    terminal.ask("/system Be brief.", "is set")
    terminal.ask("Hi", "2,048 (")
    assert server.bodies[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    terminal.ask("/system", "\nBe brief.")
    terminal.ask("/system off", "is removed")
    terminal.ask("Hi", "2,048 (")
    assert server.bodies[-1]["messages"][0]["role"] == "user"


@pytest.mark.parametrize(
    ("typed", "said", "sent"),
    [
        ("temperature 0.2", "temperature = 0.2", {"temperature": 0.2}),
        ("parameter num_predict 7", "max_tokens = 7", {"max_tokens": 7}),
        ("seed 3", "seed = 3", {"seed": 3}),
        ("top-p 0.5", "top_p = 0.5", {"top_p": 0.5}),
        ('stop "a b" c', 'stop = ["a b", "c"]', {"stop": ["a b", "c"]}),
    ],
)
def test_set(terminal, server, typed, said, sent):
    terminal.ask(f"/set {typed}", said)
    terminal.ask("Hi", "2,048 (")
    assert sent.items() <= server.bodies[-1].items()
    name = said.partition(" ")[0]
    terminal.ask(f"/set {name}", f"{said}  (")
    terminal.ask(f"/set {name} default", "has its default again")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("temperature 9", "temperature"),
        ("temprature 0.2", "Did you mean temperature?"),
        ("num_ctx 8192", "LLAMACPP_CTX_SIZE"),
        ("seed x", "seed"),
        ("temp 1", "Did you mean temperature?"),
        ("top 1", "Did you mean top_p or top_k?"),
        ("reasoning nosuch", "reasoning takes on, off, or one of minimal, low,"),
        ("verbose nosuch", "verbose takes on or off"),
        ("history nosuch", "history takes on or off"),
    ],
)
def test_what_cannot_be_set_is_named(terminal, server, typed, said):
    terminal.ask(f"/set {typed}", "miner: ")
    terminal.wait(said)
    terminal.ask("Hi", "2,048 (")
    assert "seed" not in server.bodies[-1]


def test_a_switch_says_whether_it_is_on(terminal):
    terminal.ask("/set verbose off", "verbose is off.")
    terminal.ask("/set verbose", "verbose is on.")
    terminal.ask("/set hide_reasoning OFF", "hide_reasoning is off.")


@pytest.mark.parametrize("word", ["OFF", "None", "default"])
def test_words_that_remove_the_system_message_are_no_text_of_it(terminal, word):
    terminal.ask("/system Be brief.", "is set")
    terminal.ask(f"/system {word}", "is removed")


def test_json_and_tools_take_on_and_off_in_any_case(terminal, server):
    server.reply = '{"a": 1}'
    terminal.ask("/json on", "Responses are JSON objects")
    terminal.ask("Hi", "2,048 (")
    assert server.bodies[-1]["response_format"] == {"type": "json_object"}
    terminal.ask("/json OFF", "text again")
    terminal.ask("/tools OFF", "There are no tools.")


@pytest.mark.parametrize(
    ("text", "kind"), [("[1]", "a list"), ("7", "a number"), ('"x"', "a string"), ("null", "null")]
)
def test_a_file_that_is_no_schema_is_named(terminal, tmp_path, text, kind):
    (tmp_path / "s.json").write_text(text)
    terminal.ask("/json s.json", f"s.json is {kind}, not a schema.")


def test_names_may_have_quotes(terminal):
    terminal.ask('/model "large"', "The model is large")
    terminal.ask("Hi", "2,048 (")
    terminal.ask('/save "first"', "Saved 2 messages")
    terminal.ask("/clear", "forgotten")
    terminal.ask("/load 'first'", "Loaded first: 2 messages.")


@pytest.mark.parametrize("command", ["clear all", "models x", "list x", "exit now", "retry x", "stats x"])
def test_words_after_a_command_that_takes_none_are_refused(terminal, server, command):
    terminal.ask("Hi", "2,048 (")
    name = command.split()[0]
    terminal.ask(f"/{command}", f"/{name} takes nothing after it; nothing was done.")
    terminal.ask("Again", lambda shown: shown.count("2,048 (") == 2)
    assert len(server.bodies) == 2
    assert [each["content"] for each in server.bodies[-1]["messages"]] == ["Hi", "Hello there.", "Again"]


@pytest.mark.parametrize("typed", ["/help set", "/? /set"])
def test_help_of_one_command_is_its_line(terminal, typed):
    shown = terminal.ask(typed, "how long the model stays loaded")
    assert "show or set parameters" in shown
    assert "repeat_penalty" in shown
    assert "/retry" not in shown
    terminal.ask("/help nosuch", "There is no command /nosuch")


def test_json_by_a_schema(terminal, server, tmp_path):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    (tmp_path / "bad.json").write_text('{"type": 7}')
    terminal.ask("/json bad.json", "miner: ")
    terminal.ask("/json nosuch.json", "nosuch.json")
    terminal.ask("/json s.json", "match the schema")
    server.reply = '{"a": 1}'
    shown = terminal.ask("Hi", "2,048 (")
    assert '{"a": 1}' in shown
    assert server.bodies[-1]["response_format"]["json_schema"]["schema"]["required"] == ["a"]
    server.reply = "no JSON"
    terminal.ask("Hi", "/retry sends it again")
    terminal.ask("/json off", "text again")
    terminal.ask("/retry", "2,048 (")
    assert "response_format" not in server.bodies[-1]


def test_retry_sends_the_last_message_again(terminal, server):
    terminal.ask("/retry", "There is no message")
    terminal.ask("One", "2,048 (")
    terminal.ask("Two", "2,048 (")
    server.reply = "Another."
    terminal.ask("/retry", "2,048 (")
    assert "Another." in terminal.text
    assert server.bodies[-1]["messages"] == server.bodies[-2]["messages"]
    terminal.ask("Three", "2,048 (")
    assert [each["content"] for each in server.bodies[-1]["messages"]][-3:] == ["Two", "Another.", "Three"]


def test_save_and_load_keep_all_of_it(terminal, server, tmp_path):
    terminal.ask("/system Be brief.", "is set")
    terminal.ask("/set seed 5", "seed = 5")
    terminal.ask("Hi", "2,048 (")
    terminal.ask("/save ../x", "cannot be a conversation's name")
    terminal.ask("/save first", "Saved 2 messages")
    (file,) = tmp_path.rglob("first.json")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    before = file.read_text()
    terminal.ask("More", "2,048 (")
    terminal.ask("/save first", "Overwrite it? [y/N]")
    terminal.ask("", "Nothing is saved.")
    assert file.read_text() == before
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "large", columns=100) as other:
        other.wait(">>>")
        other.ask("/load nosuch", "Saved are: first")
        other.ask("/load first", "Loaded first: 2 messages.")
        other.wait("The model is small.")
        other.ask("Again", "2,048 (")
    body = server.bodies[-1]
    assert body["model"] == "small"
    assert body["seed"] == 5
    assert [each["content"] for each in body["messages"]] == ["Be brief.", "Hi", "Hello there.", "Again"]


def test_clear_forgets_the_messages_but_not_the_system_message(terminal, server):
    terminal.ask("/system Be brief.", "is set")
    terminal.ask("Hi", "2,048 (")
    terminal.ask("/clear", "2 messages forgotten.")
    terminal.ask("New", "2,048 (")
    assert [each["content"] for each in server.bodies[-1]["messages"]] == ["Be brief.", "New"]


def test_one_message_is_one(terminal, server):
    server.reply = lambda body: (503, {"error": {"message": "Down."}})
    terminal.ask("Hi", "/retry sends it again")
    terminal.ask("/save one", "Saved 1 message:")
    terminal.ask("/clear", "1 message forgotten.")
    terminal.ask("/load one", "Loaded one: 1 message.")


def test_stats(terminal, server):
    terminal.ask("/stats", "No complete response yet")
    terminal.ask("Hi", "2,048 (")
    shown = terminal.ask("/stats", "The only response: ")
    assert "21 tokens" in shown
    assert "8 tokens" in shown
    terminal.ask("Again", lambda shown: shown.count("2,048 (") == 3)
    terminal.ask("/stats", "All 2 responses: ")
    terminal.ask("/clear", "4 messages forgotten.")
    shown = terminal.ask("/stats", "No response since the last /clear.")
    assert shown.count("All 2 responses: ") == 2


def test_a_system_message_of_blanks_is_none(terminal, server):
    terminal.ask("/system Be brief.", "counts from the next message on")
    terminal.ask('/system "  "', "The system message is removed.")
    terminal.ask("/system", "There is no system message.")


def test_image(terminal, server, tmp_path):
    (tmp_path / "my cat.png").write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("text")
    terminal.ask("/image nosuch.png", "nosuch.png")
    terminal.ask("/image notes.txt", "is not an image")
    terminal.ask('/image "my cat.png" What is it?', "2,048 (")
    parts = server.bodies[-1]["messages"][-1]["content"]
    assert {part["type"] for part in parts} == {"text", "image_url"}
    (part,) = [part for part in parts if part["type"] == "image_url"]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")


TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}},
    {
        "type": "function",
        "function": {"name": "touch", "parameters": {"type": "object", "properties": {"file": {"type": "string"}}}},
        "command": ["touch", "{file}"],
    },
]


def call(name, arguments):
    function = {"name": name, "arguments": json.dumps(arguments)}
    tool_call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    return [delta(tool_calls=[tool_call]), finish("tool_calls"), usage_chunk()]


def test_tools_the_user_types_the_result(terminal, server, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps({"tools": TOOLS}))
    terminal.ask("/tools", "There are no tools")
    terminal.ask("/tools tools.json", "Tools are on")
    replies = [call("add", {"a": 1, "b": 2}), "It is 3."]
    server.reply = lambda body: replies.pop(0)
    shown = terminal.ask("1+2?", "result>")
    assert "add(a=1, b=2)" in shown
    terminal.ask("3", "It is 3.")
    messages = server.bodies[-1]["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool"]
    assert messages[-1]["content"] == "3"
    assert messages[-1]["tool_call_id"] == "call_1"
    assert "command" not in json.dumps(server.bodies[-1]["tools"])
    terminal.wait(lambda shown: shown.count(">>>") >= 4)
    terminal.ask("/tools off", "Tools are off")
    server.reply = "Fine."
    terminal.ask("Hi", "Fine.")
    assert "tools" not in server.bodies[-1]


def test_a_command_runs_only_after_a_yes_and_without_a_shell(terminal, server, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    terminal.ask("/tools tools.json", "Tools are on")
    name = "a; touch b $(touch c)"
    replies = [call("touch", {"file": name}), "Done.", call("touch", {"file": name}), "Done too."]
    server.reply = lambda body: replies.pop(0)
    terminal.ask("Go", "Run it? [y/N]")
    assert not (tmp_path / name).exists()
    terminal.ask("n", "result>")
    terminal.ask("refused", "Done.")
    assert server.bodies[-1]["messages"][-1]["content"] == "refused"
    assert not (tmp_path / name).exists()
    terminal.ask("Go", "Run it? [y/N]")
    terminal.ask("y", "Done too.")
    assert (tmp_path / name).exists()
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()


def test_a_dropped_call_keeps_the_message(terminal, server, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    terminal.ask("/tools tools.json", "Tools are on")
    server.reply = call("add", {"a": "\x1b]0;owned\x07"})
    terminal.ask("1+2?", "result>")
    terminal.type(CTRL_C)
    terminal.wait("The tool call is dropped")
    assert b"\x1b]0;owned" not in terminal.raw
    server.reply = "Three."
    terminal.ask("/retry", "Three.")
    assert [each["role"] for each in server.bodies[-1]["messages"]] == ["user"]


def test_completion_of_commands_models_and_files(terminal, tmp_path):
    (tmp_path / "picture one.png").write_bytes(PNG)
    terminal.type("/ret")
    terminal.wait("send the last message again")
    terminal.type(TAB)
    terminal.wait(">>> /retry")
    terminal.type(CTRL_C)
    terminal.wait(lambda shown: shown.count(">>>") >= 2)
    terminal.type("/image pic" + TAB)
    terminal.wait("picture\\ one.png")
    terminal.type(CTRL_C)
    terminal.wait(lambda shown: shown.count(">>>") >= 3)
    terminal.type("/model la" + TAB)
    terminal.wait(">>> /model large")
    terminal.type(CTRL_C)
    terminal.wait(lambda shown: shown.count(">>>") >= 4)
    terminal.type("/model la")
    terminal.wait("large")  # the menu
    terminal.type(TAB)
    terminal.wait(">>> /model large")
    terminal.type("\r")  # the only completion needs no other Enter
    terminal.wait("The model is large")


@pytest.mark.parametrize("command", ["/exit", "/bye", "/quit"])
def test_it_can_be_left(terminal, command):
    terminal.type(f"{command}\r")
    assert terminal.end() == 0


def test_a_nearly_full_context_is_said_once(terminal, server):
    server.reply = lambda body: [delta(content="Hi."), finish(), usage_chunk(prompt=1700, completion=20)]
    terminal.ask("Hi", "The context is 84 % full: /clear")
    terminal.ask("Hi", "2,048 (")
    terminal.ask("Hi", "2,048 (")
    assert terminal.text.count("% full") == 1


def test_a_server_that_counts_no_tokens(terminal, server):
    server.reply = [delta(content="Hi."), finish()]
    terminal.ask("Hi", "the server counts no tokens")
    terminal.ask("/stats", "the server does not say")


def test_one_of_several_models_is_chosen_at_the_start(tmp_path, server):
    with Terminal(tmp_path, "chat", "--url", server.url) as terminal:
        terminal.wait("Which model?")
        terminal.ask("3", "A number from 1 to 2")
        terminal.wait(lambda shown: shown.count("Which model?") == 2)
        terminal.ask("2", "large · ")
        terminal.wait(">>>")
        terminal.ask("Hi", "2,048 (")
        assert server.bodies[-1]["model"] == "large"
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    with Terminal(tmp_path, "chat", "--url", server.url) as terminal:
        terminal.wait("Which model?")
        terminal.type(CTRL_C)
        assert terminal.end() == 2


def saved_file(tmp_path, name, content):
    """A conversation that somebody else has written into the state directory of the chat."""
    directory = tmp_path / ".local" / "state" / "miner" / "chat" / "saved"
    directory.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps({**WHOLE, **content})
    (directory / f"{name}.json").write_text(text)


WHOLE = {
    "format": 1, "model": None, "system": None, "messages": [{"role": "user", "content": "a"}], "options": {},
    "response_format": None, "tools": [], "tools_on": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"format": 1', "cannot be read"),
        ({"format": 2}, "no saved conversation of this version"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
        ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"options": {"evil": 1}}, "Unknown parameter: 'evil'"),
        ({"options": {"temperature": "hot"}}, "temperature must be a number"),
        ({"response_format": {"type": 5}}, "holds what cannot be sent"),
        ({"tools": [1]}, "tools[0] must be"),
    ],
)
def test_a_saved_conversation_that_is_none_is_refused_and_the_chat_goes_on(terminal, server, tmp_path, content, said):
    saved_file(tmp_path, "bad", content)
    terminal.type("/load bad" + ENTER)
    terminal.wait(lambda shown: "".join(said.split()) in "".join(shown.split()))  # wherever it is broken
    terminal.ask("Hi", "context ")
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_saved_conversation_that_is_no_file_is_not_waited_for(terminal, tmp_path):
    saved_file(tmp_path, "other", {})
    os.mkfifo(tmp_path / ".local" / "state" / "miner" / "chat" / "saved" / "pipe.json")
    terminal.type("/load pipe" + ENTER)
    terminal.wait(lambda shown: "noregularfile" in "".join(shown.split()))


def test_a_history_that_is_no_file_is_said_and_not_waited_for(server, tmp_path):
    directory = tmp_path / ".local" / "state" / "miner" / "chat"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "history")
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "small", columns=200) as terminal:
        assert "no regular file" in terminal.wait(">>>")
        terminal.ask("Hi", "context ")
        assert stat.S_ISFIFO((directory / "history").stat().st_mode)
