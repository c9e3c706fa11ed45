"""Which models a chat offers and takes, of a node that has some of other kinds."""

from __future__ import annotations

import pytest

from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from tests.cli.chat.terminal import CTRL_C, ENTER, Terminal
from tests.cli.test_gateway_client import Gate
from tests.gateway.serving import Parrot, config
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

EMBEDS = ModelInfo(id="minilm", capabilities=frozenset({"embeddings"}))
RANKS = ModelInfo(id="ranker", capabilities=frozenset({"rerank"}))
CHATS = [ModelInfo(id=name, capabilities=frozenset({"chat"})) for name in ("gemma", "demo")]


def node(*models):
    class Kinds(Parrot):
        """Several models, none the default."""

        async def list_models(self):
            return list(models)

        async def _sole_model(self):
            names = [model.id for model in models]
            raise ModelNotFoundError(f"There are several models: {names}.", available=names)

    return in_thread(Gate(Kinds(config(default_model=None))))


def test_the_menu_has_the_models_that_chat_and_takes_no_other(tmp_path):
    pasted = "minilm and " + "words " * 30
    with node(CHATS[0], EMBEDS, RANKS, CHATS[1]) as gate, Terminal(tmp_path, "chat", "--url", gate.url) as terminal:
        terminal.wait("Which model?")
        assert "1  gemma" in terminal.text
        assert "2  demo" in terminal.text
        assert "minilm" not in terminal.text
        terminal.type(pasted + ENTER)
        terminal.wait("Ctrl-C leaves.")
        assert "No model here is named" in terminal.text
        assert terminal.text.replace("\n", "").count("words") < 40  # 30 as they were typed, and the first of them
        terminal.type("demo" + ENTER)
        terminal.wait(">>>")
        terminal.ask("/model minilm", "minilm does not generate text")
        terminal.wait("These do: gemma, demo.")
        terminal.ask("/model gemma", "The model is gemma")


def test_the_only_model_that_chats_is_taken(tmp_path):
    with node(EMBEDS, CHATS[1], RANKS) as gate, Terminal(tmp_path, "chat", "--url", gate.url) as terminal:
        terminal.wait(">>>")
        assert "demo is the only model here that chats" in terminal.text
        terminal.ask("Hi", "You said: Hi")


@pytest.mark.parametrize("options", [["-m", "minilm"], []], ids=["named", "chosen"])
def test_a_model_of_another_kind_is_refused_before_the_prompt(tmp_path, options):
    others = CHATS if options else []
    with node(EMBEDS, RANKS, *others) as gate, Terminal(tmp_path, "chat", "--url", gate.url, *options) as terminal:
        assert terminal.end() == 2
        assert ">>>" not in terminal.text
        assert ("These do: gemma, demo." if options else "None of the models here generates text") in terminal.text


def test_who_chooses_none_gets_the_names(tmp_path):
    with node(*CHATS) as gate, Terminal(tmp_path, "chat", "--url", gate.url) as terminal:
        terminal.wait("Which model?")
        terminal.type(CTRL_C)
        assert terminal.end() == 2
        assert "several models" in terminal.text
