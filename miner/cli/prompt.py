"""The prompt of a command: its words, with what is piped in, files and images before them."""

from __future__ import annotations

import argparse
from typing import Any

from miner.cli.standard_input import check_utf8, is_piped, read_file, read_stdin
from miner.errors import InvalidRequestError


def read_prompt(
    words: list[str],
    files: list[str],
    *,
    what: str = "prompt",
    may_be_empty: bool = False,
    example: str = 'miner generate "Why is the sky blue?"',
) -> str:
    """The text of the prompt: that of the files, then what is piped to standard input, then the words.

    Args:
        words: `-` alone stands for standard input.
        what: what it is called in errors.
        may_be_empty: there is something else, such as an image.
        example: for where there is none.

    Raises:
        InvalidRequestError: there is none, or it is not text.
        UsageError: a file cannot be read.
    """
    question = " ".join(words)
    check_utf8("prompt", question)
    if words and not question.strip():
        raise InvalidRequestError(f"The {what} must not be empty.", param="prompt")
    parts = [f"{name}:\n\n{read_file(name, '--file')}" for name in files]
    if words == ["-"]:
        piped, question = read_stdin(), ""
        if not piped.strip():
            raise InvalidRequestError(f"Standard input has no {what}.", param="prompt")
    else:
        piped = read_stdin() if is_piped() else ""
    parts += [text for text in (piped, question) if text.strip()]
    if not parts and not may_be_empty:
        raise InvalidRequestError(f"There is no {what}.", param="prompt", hint=f"Such as: {example}")
    return "\n\n".join(parts)


def messages_of(args: argparse.Namespace, prompt: str) -> list[dict[str, Any]]:
    """The conversation of a command's prompt, --system and --image.

    Raises:
        UsageError: an image cannot be read.
    """
    content: Any = prompt
    if args.image:
        from miner.cli.images import image_url

        content = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in args.image]
        if prompt:
            content.append({"type": "text", "text": prompt})
    messages = [{"role": "user", "content": content}]
    if args.system is not None:
        messages.insert(0, {"role": "system", "content": args.system})
    return messages
