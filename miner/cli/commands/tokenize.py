"""`miner tokenize`: how many tokens a text has, and which."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.parser import EXIT_STATUS, UsageError, add_json_option, add_target_options, add_words
from miner.errors import UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms import LLMService
    from miner.core.wire import Token

_EPILOG = f"""\
examples:
  miner tokenize how many tokens is this
  miner tokenize --pieces "Hello, world"
  miner tokenize --ids - < prompt.txt
  git diff | miner tokenize --chat "Review this."
  miner tokenize --url http://node:8088 -m small --json "Hello"

The number goes to standard output. As for `miner generate`, several words need
no quotes, and what is piped in stands before them. --chat counts what a request
would send: with the model's chat template around it. llama.cpp and vLLM can;
Ollama has no such route.

--json prints one object: model, count, chat, context_length (null if unknown),
and with --ids or --pieces tokens (id, piece; bytes where they are no text).

{EXIT_STATUS}"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Count the tokens of a text, or print them.",
        epilog=_EPILOG,
        usage="miner tokenize [options] TEXT",
    )
    parser.set_defaults(run=run, flags={"model": "model", "config": "config"})
    add_words(parser, "words", metavar="TEXT", help="the text; -: read it from standard input")
    add_target_options(parser)
    option = parser.add_argument
    option("-f", "--file", metavar="FILE", action="append", help="a text file before the text; can be repeated")
    option("--ids", action="store_true", help="print the ids of the tokens")
    option("--pieces", action="store_true", help="print id and text of each token")
    option("--no-special", action="store_true", help="without the special tokens at a prompt's beginning and end")
    option("--chat", action="store_true", help="count a message, in the model's chat template")
    option("--system", metavar="TEXT", help="with --chat: a system message before it")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Tokenize; return the exit status."""
    from miner.cli.prompt import read_prompt
    from miner.cli.service_call import call_service
    from miner.cli.target import target_config

    listed = args.ids or args.pieces
    if args.chat and (listed or args.no_special):
        option = "--ids" if args.ids else "--pieces" if args.pieces else "--no-special"
        raise UsageError(f"--chat and {option} exclude each other: --chat counts only.")
    if args.system is not None and not args.chat:
        raise UsageError("--system is for --chat.")
    config = target_config(args)
    text = read_prompt(args.words, args.file or [], what="text", example='miner tokenize "Hello"')

    async def call(service: LLMService) -> Callable[[], None]:
        tokens: list[Token] = []
        if args.chat:
            messages = [{"role": "user", "content": text}]
            if args.system is not None:
                messages.insert(0, {"role": "system", "content": args.system})
            count = await _counted(service, service.count_tokens(messages=messages, model=args.model))
        else:
            tokens = await _counted(service, service.tokenize(text, args.model, special=not args.no_special))
            count = len(tokens)
        info = await service.resolve_model(args.model)
        model, context = (info.id, info.context_length) if info is not None else (args.model, None)
        described: dict[str, Any] = {"model": model, "count": count, "chat": args.chat, "context_length": context}
        if listed:
            described["tokens"] = [_described(token) for token in tokens]
        return lambda: _show(described, args)

    return call_service(args, config, call)


async def _counted(service: LLMService, counting: Any) -> Any:
    try:
        return await counting
    except UnsupportedFeatureError as error:
        if error.param in ("text", "count_tokens"):
            error.operator_hint = "A response has the count: miner generate --json --max-tokens 1 has it in `usage`."
        raise


def _described(token: Token) -> dict[str, Any]:
    return {"id": token.id, "piece": token.piece} | ({"bytes": token.bytes} if token.bytes is not None else {})


def _show(described: dict[str, Any], args: argparse.Namespace) -> None:
    from miner.cli.output.style import columns
    from miner.cli.output.tables import aligned, print_json

    if args.json:
        print_json(described)
        return
    count, context, tokens = described["count"], described["context_length"], described.get("tokens", [])
    if args.pieces:
        rows = [("ID", "PIECE"), *((str(token["id"]), _piece(token)) for token in tokens)]
        print(aligned(rows, right=frozenset({0}), columns=columns(sys.stdout)))
    elif args.ids:
        print(" ".join(str(token["id"]) for token in tokens))
    else:
        print(count)
    named = f" of {described['model']}" if described["model"] else ""
    share = f"{count / context:.1%}" if context and count * 1000 >= context else "under 0.1%"
    of_context = f", {share} of its context of {context}" if context else ""
    note(f"{count} token{'' if count == 1 else 's'}{named}{of_context}.")


def _piece(token: dict[str, Any]) -> str:
    """The piece in quotes, so that its spaces show."""
    if token.get("bytes") is not None:
        return " ".join(f"<{byte:02X}>" for byte in token["bytes"])
    return "?" if token["piece"] is None else json.dumps(token["piece"], ensure_ascii=False)
