"""What a mistyped command, action or option was meant to be."""

from __future__ import annotations

from collections.abc import Iterable

from miner.config.near import closest

_SYNONYMS = {
    "list": "ls ps tags models",
    "rm": "remove delete del rmi uninstall",
    "revoke": "rm remove delete del",
    "new": "add create generate make",
    "show": "info inspect cat get view describe display print",
    "pull": "download get fetch install add",
    "serve": "start up gateway server run daemon",
    "stop": "kill down halt",
    "unload": "free evict",
    "load": "warm preload start",
    "ps": "status running processes",
    "top": "monitor watch htop stats",
    "logs": "log tail journal",
    "keys": "key token tokens auth apikey apikeys",
    "models": "model",
    "backends": "backend engines engine providers",
    "config": "configure settings setup conf",
    "init": "new create setup write",
    "check": "validate test verify lint",
    "schema": "jsonschema",
    "doctor": "diagnose check health troubleshoot",
    "bench": "benchmark perf loadtest",
    "generate": "ask prompt complete completion query gen",
    "chat": "repl talk interactive",
    "embed": "embedding embeddings",
    "rerank": "rank reranker",
    "tokenize": "tokens count tokenise detokenize",
    "update": "edit set change modify",
    "rotate": "renew replace roll refresh",
    "completion": "completions autocomplete",
    "import": "migrate convert",
}
"""Name -> what people of other tools type for it."""


def meant(typed: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant; None: no guess."""
    names = list(known)
    word = typed.lower()
    if word in names:
        return word
    for name in names:
        if word in _SYNONYMS.get(name, "").split():
            return name
    return closest(word, names)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return `Did you mean ...?` if a known name is similar."""
    near = closest(name, known)
    return f"Did you mean {near}?" if near else None
