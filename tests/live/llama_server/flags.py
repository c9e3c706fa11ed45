"""The options of `llama-server` that its tests start it with."""

from __future__ import annotations

import argparse

SWITCHES = (
    "--offline --cont-batching --embedding --reranking --metrics --kv-unified --swa-full --slots --no-slots --verbose "
    "--context-shift --no-ui --no-models-autoload --jinja --no-jinja --no-mmproj --no-cache-idle-slots --ui-mcp-proxy "
    "--backend_sampling"
).split()
TEXTS = (
    "--host --model --model-url --model-draft --hf-repo --hf-file --models-dir --models-preset --cors-origins "
    "--pooling --alias --tags -ctk -ctv -fa --slot-save-path --lora --spec-type --api-key --spec-synth-rates "
    "--reasoning-format --reasoning --chat-template --chat-template-file --mmproj-url --media-path --tools "
    "--tools-runtime --mcp-servers-config --mcp-servers-json --sleep-idle-seconds --cache-ram"
).split()
NUMBERS = (
    "--port --seed --models-max --batch-size --ubatch-size --threads --n-gpu-layers --ctx-size --parallel --n-predict "
    "--grp-attn-n --grp-attn-w --spec-draft-n-max --spec-draft-n-min"
).split()


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options; those that were not given are None or False."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in SWITCHES:
        parser.add_argument(name, action="store_true")
    for name in TEXTS:
        parser.add_argument(name)
    for name in NUMBERS:
        parser.add_argument(name, type=int)
    for name in ("--temp", "--spec-synth-len"):
        parser.add_argument(name, type=float)
    return parser.parse_args(arguments)
