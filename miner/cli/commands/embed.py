"""`miner embed`: the vectors of texts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.parser import EXIT_STATUS, UsageError, add_json_option, add_target_options, add_words, number
from miner.cli.texts import one_line, read_texts

if TYPE_CHECKING:
    from miner.core.llms import LLMService

_EPILOG = f"""\
examples:
  miner embed -m minilm "the first text" "the second"
  miner embed -m minilm --similar "a feline" "a cat" "a car" "a dog"
  miner embed -m minilm --input lines.txt --output vectors.npy
  cat lines.txt | miner embed -m minilm --json > vectors.json
  miner embed --url http://node:8088 -m minilm "a text"

Each argument is a text, and so is each line of --input, of `-`, and of standard
input where there is no other text. --output writes all vectors: as rows of
32-bit floats (.npy, for numpy.load), as --json does (.json), or one object a
line (.jsonl).

--json prints one object: model, dimensions, embeddings (index, text and
embedding), usage; with --similar instead query and similarities (index, text,
similarity), the most similar first.

{EXIT_STATUS}"""
_BATCH = 64
"""Texts of one request."""
_VALUES = 3
"""Values of a vector in the table."""
_NARROW = 70
"""Columns below which there is room for one value."""
_EXAMPLE = "hf:nomic-ai/nomic-embed-text-v1.5-GGUF"


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Compute the embedding vectors of texts.", epilog=_EPILOG, usage="miner embed [options] [TEXT ...]"
    )
    parser.set_defaults(run=run, flags={"model": "model", "dimensions": "dimensions", "config": "config"})
    add_words(parser, "texts", metavar="TEXT", help="a text; -: each line of standard input")
    add_target_options(parser)
    option = parser.add_argument
    option("-i", "--input", metavar="FILE", help="a file with a text a line; -: standard input")
    option("--dimensions", metavar="N", type=number, help="cut the vectors to N values and scale them to length 1")
    option("--similar", metavar="TEXT", help="sort the texts by their similarity to this one (cosine)")
    option("-o", "--output", metavar="FILE", help="write the vectors to a .npy, .json or .jsonl file")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Embed; return the exit status."""
    from miner.cli.embeddings import check_output
    from miner.cli.service_call import call_service
    from miner.cli.target import target_config

    if args.output is not None:
        check_output(args.output)
        if args.similar is not None:
            raise UsageError("--output and --similar exclude each other.", operator_hint="With --similar use --json.")
    config = target_config(args)
    texts = read_texts(args.texts, args.input, what="text", command='miner embed -m NAME "a text"')

    async def call(service: LLMService) -> Callable[[], None]:
        asked = [args.similar, *texts] if args.similar is not None else texts
        vectors, model, tokens = await _embed(service, asked, args)
        described = _described(texts, vectors, model, tokens, args.similar)
        return lambda: _show(described, vectors, args)

    return call_service(args, config, call, capability="embeddings", example=_EXAMPLE)


async def _embed(
    service: LLMService, texts: list[str], args: argparse.Namespace
) -> tuple[list[list[float]], str | None, int | None]:
    """The vectors, the model that computed them, and its tokens; None if unknown."""
    vectors: list[list[float]] = []
    model: str | None = None
    tokens: int | None = 0
    for start in range(0, len(texts), _BATCH):
        response = await service.embed(texts[start : start + _BATCH], args.model, args.dimensions)
        vectors += response.embeddings
        model = response.model or model
        tokens = None if tokens is None or response.usage is None else tokens + response.usage.prompt_tokens
    return vectors, model, tokens


def _described(
    texts: list[str], vectors: list[list[float]], model: str | None, tokens: int | None, query: str | None
) -> dict[str, Any]:
    """What --json prints."""
    from miner.cli.embeddings import cosine

    described: dict[str, Any] = {"model": model, "dimensions": len(vectors[0])}
    if query is None:
        described["embeddings"] = [
            {"index": index, "text": text, "embedding": vector}
            for index, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
    else:
        similar: list[dict[str, Any]] = [
            {"index": index, "text": text, "similarity": cosine(vectors[0], vector)}
            for index, (text, vector) in enumerate(zip(texts, vectors[1:], strict=True))
        ]
        described |= {"query": query, "similarities": sorted(similar, key=lambda each: -each["similarity"])}
    return described | {"usage": None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens}}


def _show(described: dict[str, Any], vectors: list[list[float]], args: argparse.Namespace) -> None:
    from miner.cli.output.style import columns
    from miner.cli.output.tables import aligned, print_json

    if args.output is not None:
        from miner.cli.embeddings import write_vectors

        size = write_vectors(args.output, described)
        note(f"Wrote {len(vectors)} vectors of {described['dimensions']} dimensions to {args.output} ({size}).")
    if args.json:
        print_json(described)
        return
    if args.output is not None:
        return
    width = columns(sys.stdout)
    narrow = width is not None and width < _NARROW
    room = (width or 120) - (13 if narrow else 50)
    if args.similar is not None:
        rows = [("SIMILARITY", "TEXT")]
        rows += [
            (f"{each['similarity']:.4f}", one_line(each["text"], (width or 120) - 13))
            for each in described["similarities"]
        ]
        print(aligned(rows, right=frozenset({0}), columns=width))
    else:
        heads = [("DIMENSIONS", "VECTOR", "TEXT")]
        heads += [
            (
                str(len(each["embedding"])),
                _beginning(each["embedding"], 1 if narrow else _VALUES),
                one_line(each["text"], room),
            )
            for each in described["embeddings"]
        ]
        print(aligned(heads, right=frozenset({0}), columns=width))
        note(f"By {described['model'] or 'the model'}. All values: --json, or --output FILE.npy.")


def _beginning(vector: list[float], values: int) -> str:
    shown = ", ".join(f"{value:.4f}" for value in vector[:values])
    return f"[{shown}{', ...' if len(vector) > values else ''}]"
