"""`miner models`: list, show, pull and remove models; reset a failed one of a gateway."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.model_actions import ACTIONS, add_action
from miner.cli.output.tables import print_json
from miner.cli.parser import add_gateway_options

_EPILOG = """\
examples:
  miner models list
  miner models pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF
  miner models pull hf:unsloth/Qwen3-4B-GGUF:Q8_0
  miner models show demo
  miner models rm unsloth/Qwen3-4B-GGUF/Qwen3-4B-Q8_0
  miner models path demo
  miner models reset demo --url http://127.0.0.1:8088 --key - < key.txt

`miner list`, `show`, `pull`, `rm` and `cp` are the same. NAME is a path, a model's
full name in MODELS_DIR or its last part (in any case), hf:owner/repo
[:quantization or file], or demo. An interrupted pull resumes. HF_TOKEN,
HF_ENDPOINT and proxy variables are used. With LLM_BACKEND=ollama the models are
those of the Ollama server. With a miner.toml, `list` shows its models and what
they are doing.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="List, show, pull and remove models.",
        epilog=_EPILOG,
        usage="miner models ACTION [NAME] [options]",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner models")
    for action, line in ACTIONS.items():
        add_action(actions.add_parser(action, help=line, description=f"{line[0].upper()}{line[1:]}."), action)
    reset = actions.add_parser(
        "reset",
        help="let a running gateway start a model's failed engine again",
        description="Let a running gateway start the failed engine of a model again at the next\nrequest.",
    )
    reset.set_defaults(run=run)
    reset.add_argument("name", metavar="NAME", help="the model")
    add_gateway_options(reset)


def run(args: argparse.Namespace) -> int:
    """Run the action `reset`: the others have a `run` of their own."""
    from miner.cli.gateway_client import reset_model

    name = reset_model(args.name, url=args.url, key=args.key)
    if args.json:
        print_json({"reset": name})
    else:
        print(f"reset {name}: the next request starts its engine again")
    return 0
