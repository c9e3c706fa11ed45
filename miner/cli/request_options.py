"""The options of one request that a person types, and the library's parameters that they are."""

from __future__ import annotations

import argparse
import re
from typing import Any

from miner.cli.json_value import json_value
from miner.cli.parser import UsageError, number
from miner.cli.standard_input import check_utf8, read_file
from miner.errors import MinerError, OutputValidationError, UnsupportedFeatureError

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_THINK = {"true": True, "false": False, "none": False}
"""Values of --think, as Ollama's users type them, that are no effort."""
_THINKING = tuple(dict.fromkeys((*_THINK, *EFFORTS)))
_SAMPLING = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
_AS_THEY_ARE = ("model", *_SAMPLING, "stop", "suffix", "timeout", "keep_alive", "tool_choice")
_MAX_TOKENS = re.compile(r"\bmax_tokens\b")
_FORMATS = ("schema", "json_object", "regex", "grammar")


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add them, and what `name_flags` needs to name them in errors."""
    names = ("config", "tools", *_AS_THEY_ARE)
    parser.set_defaults(flags={name: name for name in names} | {"messages": "image", "reasoning": "reasoning_effort"})
    add = parser.add_argument_group("sampling").add_argument
    most = "maximum tokens to generate (DEFAULT_MAX_TOKENS, 512); -1: until the context ends"
    add("--max-tokens", metavar="N", type=number, help=most)
    add("--temperature", metavar="T", type=number, help="0 to 2; 0: greedy (DEFAULT_TEMPERATURE, 0.7)")
    add("--top-p", metavar="P", type=number, help="0 to 1; 0: greedy (DEFAULT_TOP_P, 0.95)")
    add("--top-k", metavar="K", type=number, help="sample from the K most likely tokens; 0: off")
    add("--min-p", metavar="P", type=number, help="leave out tokens below P times the likeliest one's probability")
    add("--seed", metavar="N", type=number, help="seed for reproducible sampling")
    add("--repeat-penalty", metavar="R", type=number, help="above 1: fewer repetitions")
    add("--presence-penalty", metavar="R", type=number, help="-2 to 2; above 0: fewer repetitions")
    add("--frequency-penalty", metavar="R", type=number, help="-2 to 2; above 0: fewer frequent tokens")
    group = parser.add_argument_group("request")
    add = group.add_argument
    add("--system", metavar="TEXT", help="system message before the prompt")
    add("--image", metavar="FILE|URL", action="append", help="an image before the prompt; can be repeated")
    add("-f", "--file", metavar="FILE", action="append", help="a text file before the prompt; can be repeated")
    add("--stop", metavar="TEXT", action="append", help="stop sequence; can be repeated")
    add("--schema", metavar="FILE|JSON", help="JSON Schema of the response, enforced during generation")
    add("--json-object", action="store_true", help="any JSON object as the response")
    add("--regex", metavar="PATTERN", help="a regular expression that the response matches (vLLM)")
    add("--grammar", metavar="FILE", help="a grammar of the response: GBNF (llama.cpp) or EBNF (vLLM)")
    add("--tools", metavar="FILE|JSON", help="functions that the model may call, as in OpenAI's API")
    add("--tool-choice", metavar="CHOICE", help="auto, none, required, or the name of one of --tools")
    thinking = group.add_mutually_exclusive_group()
    effort = f"how much to reason: {', '.join(EFFORTS)}"
    thinking.add_argument("--reasoning-effort", metavar="LEVEL", choices=EFFORTS, help=effort)
    reason = "reason first; the reasoning goes to standard error. --think=LEVEL as --reasoning-effort"
    thinking.add_argument("--think", nargs="?", const="true", metavar="LEVEL", choices=_THINKING, help=reason)
    thinking.add_argument("--no-think", action="store_true", help="respond without reasoning")
    add("--raw", action="store_true", help="send the prompt verbatim, without the chat template")
    add("--suffix", metavar="TEXT", help="text after a gap that the model fills, the prompt being before it")
    add("--timeout", metavar="SECONDS", type=number, help="for the whole request")
    add("--keep-alive", metavar="TIME", type=number, help="how long the model stays loaded: seconds, 5m, -1: for ever")
    add("--ignore-unsupported", action="store_true", help="leave out, and name, what the model does not support")


def parameters_of(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters of the library's verbs, besides the prompt; without those that are not set.

    Raises:
        UsageError: a file cannot be read or is not what it should be, or options exclude each other.
        InvalidRequestError: an argument is not UTF-8.
    """
    for name in ("system", "model", "suffix", "regex", "tool_choice"):
        check_utf8(name, getattr(args, name))
    check_utf8("stop", *(args.stop or ()))
    if args.raw:
        for name in ("system", "image", "tools", "think", "reasoning_effort"):
            if getattr(args, name) not in (None, "", [], "false", "none"):
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"--raw and {flag} exclude each other: --raw sends the prompt verbatim.")
    parameters = {name: getattr(args, name) for name in _AS_THEY_ARE}
    if args.tools is not None:
        parameters["tools"] = _tools(args.tools)
    elif args.tool_choice is not None:
        raise UsageError("--tool-choice is for --tools.")
    parameters["response_format"] = _response_format(args)
    if args.raw:
        parameters["raw"] = True
    if (reasoning := _reasoning(args)) is not None:
        parameters["reasoning"] = reasoning
    if args.ignore_unsupported:
        parameters["unsupported"] = "ignore"
    return {name: value for name, value in parameters.items() if value is not None}


def _reasoning(args: argparse.Namespace) -> bool | str | None:
    if args.think or args.no_think:
        args.flags["reasoning"] = "think" if args.think else "no_think"
        return _THINK.get(args.think, args.think or False)
    return False if args.reasoning_effort == "none" else args.reasoning_effort


def _tools(argument: str) -> Any:
    """The tools, whether as a list, in an object with `tools`, or as functions alone."""
    value = json_value(argument, "--tools")
    tools = value.get("tools", [value]) if isinstance(value, dict) else value
    if not isinstance(tools, list) or not tools:
        wrong = "the list of tools is empty" if tools == [] else "must be a list of tools"
        raise UsageError(
            f"--tools {argument[:40]!r}: {wrong}.",
            operator_hint='Such as: [{"type": "function", "function": {"name": ..., "parameters": {...}}}]',
        )
    return [
        {"type": "function", "function": tool}
        if isinstance(tool, dict) and "function" not in tool and "name" in tool
        else tool
        for tool in tools
    ]


def _response_format(args: argparse.Namespace) -> Any:
    given = [name for name in _FORMATS if getattr(args, name)]
    if not given:
        return None
    if len(given) > 1:
        first, second = (_flag(args, name) for name in given[:2])
        raise UsageError(f"{first} and {second} exclude each other.")
    args.flags["response_format"] = _flag(args, given[0]).removeprefix("--").replace("-", "_")
    if args.json_object:
        return {"type": "json_object"}
    if args.regex:
        return {"type": "regex", "regex": args.regex}
    if args.grammar:
        return {"type": "grammar", "grammar": read_file(args.grammar, "--grammar")}
    flag = _flag(args, "schema")
    schema = json_value(args.schema, flag)
    if not isinstance(schema, dict):
        raise UsageError(f"{flag} {args.schema[:40]!r}: a JSON Schema is an object, not {type(schema).__name__}.")
    if schema.get("type") in ("json_schema", "json_object"):
        return schema  # in OpenAI's form
    return {"type": "json_schema", "schema": schema}


def _flag(args: argparse.Namespace, name: str) -> str:
    """The option of a format as it was written: --format may stand for it."""
    own = name in ("schema", "json_object") and getattr(args, "format", None) is not None
    return "--format" if own else f"--{name.replace('_', '-')}"


def name_max_tokens(error: MinerError) -> None:
    """Have an error about a response that was cut short name the option, not the parameter of the library."""
    if isinstance(error, OutputValidationError):
        error.message = _MAX_TOKENS.sub("--max-tokens", error.message)
    if error.hint is not None:
        error.hint = _MAX_TOKENS.sub("--max-tokens", error.hint)


def name_unsupported(error: MinerError, args: argparse.Namespace) -> bool:
    """Have an error name the option that the model does not support, and the way out; return whether it is one."""
    if not isinstance(error, UnsupportedFeatureError) or error.param is None:
        return False
    argument = args.flags.get(error.param.partition("[")[0])
    if argument is None or argument in ("model", "config"):
        return False
    typed = getattr(args, argument, None)
    if typed is None or typed is False:
        return False
    flag = f"--{argument.replace('_', '-')}"
    error.message = f"{flag}: {error.message}"
    if argument == "image":
        error.hint = "Use a model that sees images: `miner models show NAME` lists what one can do."
    else:
        error.hint = f"Leave {flag} out, or add --ignore-unsupported."
    return True
