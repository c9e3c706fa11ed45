"""`miner rerank`: documents by their relevance to a query."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from miner.cli.output.errors import note
from miner.cli.parser import EXIT_STATUS, UsageError, add_json_option, add_target_options, add_words, number
from miner.cli.standard_input import check_utf8, read_file
from miner.cli.texts import one_line, read_texts

if TYPE_CHECKING:
    from miner.core.llms import LLMService
    from miner.core.wire import RerankResponse

_EPILOG = f"""\
examples:
  miner rerank -m ranker "cats" "a text on dogs" "a text on cats"
  miner rerank -m ranker "how to restart it" --input lines.txt --top-n 5
  miner rerank -m ranker "how to restart it" --file a.md --file b.md
  grep -h error *.log | miner rerank -m ranker "disk full"
  miner rerank --url http://node:8088 -m ranker "cats" - < lines.txt

Each argument after the query is a document, and so is each line of --input, of
`-`, each --file as a whole, and each line of standard input where there is no
other document. Scores are on the model's own scale; higher is more relevant.

--json prints one object: model, query, results (index of the document from 0,
relevance_score, document; most relevant first), usage.

{EXIT_STATUS}"""
_EXAMPLE = "hf:gpustack/bge-reranker-v2-m3-GGUF"


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Sort documents by their relevance to a query.",
        epilog=_EPILOG,
        usage="miner rerank [options] QUERY [DOCUMENT ...]",
    )
    parser.set_defaults(run=run, flags={"model": "model", "top_n": "top_n", "config": "config"})
    add_words(parser, "texts", metavar="QUERY DOCUMENT", help="the query, and documents; -: lines of standard input")
    add_target_options(parser)
    option = parser.add_argument
    option("-i", "--input", metavar="FILE", help="a file with a document a line; -: standard input")
    option("-f", "--file", metavar="FILE", action="append", help="a file that is one document; can be repeated")
    option("-n", "--top-n", metavar="N", type=number, help="print only the N most relevant")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Rank; return the exit status."""
    from miner.cli.service_call import call_service
    from miner.cli.target import target_config

    if not args.texts or not args.texts[0].strip():
        raise UsageError("There is no query.", operator_hint='Such as: miner rerank -m NAME "cats" "a cat" "a dog"')
    query, *words = args.texts
    check_utf8("query", query)
    config = target_config(args)
    documents = [read_file(name, "--file") for name in args.file or ()]
    if empty := next((name for name, text in zip(args.file or (), documents, strict=True) if not text.strip()), None):
        raise UsageError(f"--file {empty!r} is empty.")
    names: list[str | None] = [*(args.file or ())]
    if words or args.input is not None or not documents:
        lines = read_texts(words, args.input, what="document", command='miner rerank -m NAME "cats" "a cat" "a dog"')
        documents, names = [*lines, *documents], [*(None for _ in lines), *names]

    async def call(service: LLMService) -> Callable[[], None]:
        response = await service.rerank(query, documents, args.model, args.top_n)
        return lambda: _show(response, query, names, args)

    return call_service(args, config, call, capability="rerank", example=_EXAMPLE)


def _show(response: RerankResponse, query: str, names: list[str | None], args: argparse.Namespace) -> None:
    from msgspec.structs import asdict

    from miner.cli.output.style import columns
    from miner.cli.output.tables import aligned, print_json

    if args.json:
        results = []
        for result in response.results:
            described = {
                "index": result.index, "relevance_score": result.relevance_score, "document": result.document,
            }  # fmt: skip
            if (name := names[result.index]) is not None:
                described["file"] = name
            results.append(described)
        usage = None if response.usage is None else asdict(response.usage)
        print_json({"model": response.model, "query": query, "results": results, "usage": usage})
        return
    width = columns(sys.stdout)
    rows = [("SCORE", "#", "DOCUMENT")]
    for result in response.results:
        name = names[result.index]
        text = f"{name}: {result.document}" if name is not None else result.document or ""
        rows.append((f"{result.relevance_score:.4f}", str(result.index + 1), one_line(text, (width or 120) - 18)))
    print(aligned(rows, right=frozenset({0, 1}), columns=width))
    left_out = len(names) - len(response.results)
    note(f"By {response.model or 'the model'}{f'; {left_out} less relevant ones left out' if left_out else ''}.")
