"""llama-server's options as keys of `[models.NAME]`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from miner.cli.imports.draft import Section, variables_in
from miner.cli.imports.engine_arguments import FALSE, TRUE, Given, NotCarriedError
from miner.cli.imports.engine_flags import OLDER_LOAD_MODES, load_mode, needs_binary, refusal
from miner.cli.imports.engine_table import BY_MINER, DRAFT, LOST, REPEATED, SAMPLING
from miner.config.llamacpp import CACHE_TYPES, FLASH_ATTENTION, POOLING_TYPES
from miner.core.engine.speculation import check_speculation
from miner.core.models.names import parse_ref
from miner.errors import ConfigError


@dataclass(slots=True)
class EngineKeys:
    """What a list of options becomes."""

    keys: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    """Key -> comment beside it."""
    by_miner: list[str] = field(default_factory=list)
    """Spellings of options that are set by this program itself."""
    lost: list[tuple[str, str | bool, str]] = field(default_factory=list)
    """Spelling, value, reason."""
    changed: list[tuple[str, str]] = field(default_factory=list)
    """Spelling, how it differs."""

    def write(self, section: Section, where: str) -> None:
        """Write them into the model's table; `where`: what the report calls it."""
        for key, value in self.keys.items():
            if key == "aliases":
                section.add(key, value)
            else:
                section.set(key, value, self.comments.get(key, ""))
        for spelling, value, why in self.lost:
            section.lose(where, spelling, value, why)
        for spelling, why in self.changed:
            section.change(f"{where}.{spelling}", why)
        if self.by_miner:
            section.comment(f"set by miner itself, or by its settings: {', '.join(self.by_miner)}")


def keys_of(
    given: Iterable[Given], path_of: Callable[[str], str] = lambda path: path, *, binary: bool = True
) -> EngineKeys:
    """The keys of the model's table.

    Args:
        path_of: from a path as the other file has it to one as this file has it.
        binary: whether a llama-server binary runs it, and not the engine that comes with miner.

    Raises:
        NotCarriedError: an option cannot be carried over.
    """
    return _Reader(path_of, binary).read(list(given))


class _Reader:
    def __init__(self, path_of: Callable[[str], str], binary: bool) -> None:
        self._path = path_of
        self._binary = binary
        self._written: dict[str, str] = {}
        """Flag -> spelling."""
        self._all: dict[str, Given] = {}
        self._out = EngineKeys()
        self._flags: dict[str, Any] = {}
        self._readers: dict[str, Callable[[Given], None]] = {
            "threads": self._threads, "batch-size": self._batch_size, "ubatch-size": self._ubatch_size,
            "cache-type-k": self._cache_type, "cache-type-v": self._cache_type, "flash-attn": self._flash_attn,
            "cache-ram": self._cache_ram, "n-gpu-layers": self._n_gpu_layers, "cpu-moe": self._cpu_moe,
            "n-cpu-moe": self._n_cpu_moe, "mmproj": self._mmproj, "chat-template-file": self._chat_template_file,
        }  # fmt: skip

    def read(self, given: list[Given]) -> EngineKeys:
        for each in given:
            if each.name in REPEATED or each.name in ("lora", "lora-scaled", "alias"):
                continue
            if each.name in self._all:
                self._out.changed.append((each.written, "stands there twice: the last one counts"))
            self._all[each.name] = each
        self._source()
        self._context()
        self._repeated(given)
        self._embeddings()
        self._speculation()
        sampling: dict[str, Any] = {}
        for each in list(self._all.values()):
            self._one(each, sampling)
        keys = self._out.keys
        if "pooling" in keys:
            for key in ("speculation", *(["sampling"] if sampling else [])):
                if keys.pop(key, None) or key == "sampling":
                    self._out.changed.append((key, "left out: an embedding model generates nothing"))
        elif sampling:
            keys["sampling"] = sampling
        if flags := self._checked_flags():
            keys["flags"] = flags
        return self._out

    def _checked_flags(self) -> dict[str, Any]:
        """The flags, if the engine takes them."""
        for name, value in self._flags.items():
            if (why := refusal(name, value)) is not None:
                raise NotCarriedError(self._written.get(name, f"--{name}"), f": {why}")
        if self._binary:
            return self._flags
        flags = load_mode(self._flags)
        if "load-mode" not in flags:
            self._out.by_miner += [self._written[name] for name in self._flags if name in OLDER_LOAD_MODES]
        for name, value in flags.items():
            if needs_binary(name, value):
                self._out.changed.append(
                    (self._written.get(name, name), "only a llama-server binary takes it: set server")
                )
        return flags

    def _take(self, name: str) -> Given | None:
        return self._all.pop(name, None)

    def _lose(self, given: Given, why: str) -> None:
        self._out.lost.append((given.written, given.value, why))

    def _source(self) -> None:
        model, repo, file = self._take("model"), self._take("hf-repo"), self._take("hf-file")
        for name in ("model-url", "docker-repo"):
            given = self._take(name)
            if given is not None and (model or repo):
                self._lose(given, "the model is named already")
            elif given is not None:
                raise NotCarriedError(given.written, ": models are named by a file or a repository here")
        if model is not None:
            self._out.keys["file"] = self._path(str(model.value))
            for other in (repo, file):
                if other is not None:
                    self._lose(other, "the model is named already")
            return
        if repo is None:
            return
        name = str(repo.value)
        if file is not None:
            name = f"{name.partition(':')[0]}:{file.value}"
        if parse_ref(name) is None:
            raise NotCarriedError(repo.written, f" {name}: not OWNER/NAME, or OWNER/NAME:QUANTIZATION")
        self._out.keys["hub"] = name

    def _context(self) -> None:
        size, slots, unified = self._take("ctx-size"), self._take("parallel"), self._all.get("kv-unified")
        each_slot = self._take("kv-unified-per-slot")
        count = self._number(slots, int, 1, 256) if slots is not None and str(slots.value) != "-1" else None
        if count is not None:
            self._out.keys["slots"] = count
        tokens = self._number(size, int, 0, math.inf) if size is not None else None
        if each_slot is not None:
            tokens = self._number(each_slot, int, 0, math.inf)
        if not tokens or (size is None and each_slot is None):
            return  # 0: as the model was trained, which is the default here, as far as memory allows
        shared = each_slot is not None or (unified is not None and unified.value is True)
        context = tokens if count is None or shared else tokens // count
        written = (each_slot or size or Given("", "", "")).written
        if context < 256:
            self._lose(Given("", str(tokens), written), "a slot has at least 256 tokens here")
            return
        self._out.keys["context"] = context
        if count is not None and count > 1 and not shared:
            self._out.comments["context"] = f"of each slot: {tokens} for {count}"
        elif count is None:
            self._out.keys["slots"] = 1
            self._out.comments["slots"] = "one, which has all these tokens; more where memory allows"
            self._out.changed.append(
                (written, "llama-server shares it among its slots; here each slot has its own: slots = 1")
            )

    def _repeated(self, given: list[Given]) -> None:
        lora: list[Any] = []
        aliases: list[str] = []
        for each in given:
            text = str(each.value)
            if each.name == "alias":
                aliases += [name.strip() for name in text.split(",") if name.strip()]
            elif each.name == "lora":
                lora += [self._path(path) for path in text.split(",") if path]
            elif each.name == "lora-scaled":
                for part in filter(None, text.split(",")):
                    path, _, scale = part.rpartition(":")
                    number = _float(scale)
                    if not path or number is None:
                        raise NotCarriedError(each.written, f" {part}: not FILE:SCALE")
                    lora.append({"file": self._path(path), "scale": number})
            elif each.name in REPEATED:
                self._written[each.name] = each.written
                there = self._flags.get(each.name)
                if there is None:
                    self._flags[each.name] = text
                else:
                    self._flags[each.name] = [*(there if isinstance(there, list) else [there]), text]
        if lora:
            self._out.keys["lora"] = lora
        if aliases:
            self._out.keys["aliases"] = aliases

    def _embeddings(self) -> None:
        pooling, rerank = self._take("pooling"), self._take("reranking")
        if rerank is not None and rerank.value is True:
            self._out.keys["pooling"] = "rank"
        elif pooling is not None and pooling.value in POOLING_TYPES:
            self._out.keys["pooling"] = pooling.value
        elif pooling is not None:
            raise NotCarriedError(pooling.written, f" {pooling.value}: not one of {', '.join(POOLING_TYPES)}")
        elif (embeddings := self._all.get("embeddings")) is not None and embeddings.value is True:
            self._out.changed.append(
                (embeddings.written, "embeddings are on where the model's file names a pooling; else set pooling")
            )

    def _speculation(self) -> None:
        found: dict[str, Any] = {}
        hub = n_min = ""
        written: dict[str, str] = {}
        for name, key in DRAFT.items():
            given = self._take(name)
            if given is None:
                continue
            written[key] = given.written
            if key == "file":
                found[key] = self._path(str(given.value))
            elif key == "n_gpu_layers":
                if (layers := self._layers(given)) is not None:
                    found[key] = layers
            elif key == "p_min":
                found[key] = self._number(given, float, 0, 1)
            elif key in ("n_max", "n_min"):
                found[key] = self._number(given, int, 1 if key == "n_max" else 0, 512)
                n_min = given.written if key == "n_min" else n_min
            else:
                found[key] = str(given.value)
                hub = given.written if key == "hub" else hub
        if "file" in found and "hub" in found:
            self._out.lost.append((hub, found.pop("hub"), "the draft model is named already"))
        if found.get("n_min", 0) > found.get("n_max", 512):
            raise NotCarriedError(n_min, f" {found['n_min']}: more than the most tokens to guess")
        if "file" in found or "hub" in found:
            found.setdefault("type", "draft")
        if found.get("type") == "none":
            return
        if "hub" in found and parse_ref(found["hub"]) is None:
            raise NotCarriedError(hub, f" {found['hub']}: not OWNER/NAME")
        if found and "type" not in found:
            self._out.lost += [(written[key], str(value), "nothing is guessed without a draft model or a --spec-type")
                               for key, value in found.items()]  # fmt: skip
        elif found:
            _check_speculation(found, written)
            self._out.keys["speculation"] = {"type": found.pop("type"), **found}

    def _one(self, given: Given, sampling: dict[str, Any]) -> None:
        keys, name = self._out.keys, given.name
        if name in SAMPLING:
            key, kind, least, most = SAMPLING[name]
            if str(given.value) not in ("-1", "-2") or least < -1:
                sampling[key] = self._number(given, kind, least, most)
        elif name == "jinja" and given.value is False:
            self._flag("no-jinja", True, given)
        elif name == "mmproj-auto" and given.value is False:
            keys["mmproj"] = False
        elif name in BY_MINER:
            self._out.by_miner.append(given.written)
        elif name in LOST:
            self._lose(given, LOST[name])
        elif name in self._readers:
            self._readers[name](given)
        elif isinstance(given.value, bool):
            self._flag(name if given.value else f"no-{name}", True, given)
        else:
            self._flag(name, _typed(given.value), given)

    def _flag(self, name: str, value: Any, given: Given) -> None:
        self._flags[name] = value
        self._written[name] = given.written

    def _threads(self, given: Given) -> None:
        if str(given.value).startswith("-"):
            self._out.by_miner.append(given.written)
        else:
            self._out.keys["threads"] = self._number(given, int, 1, 512)

    def _batch_size(self, given: Given) -> None:
        if "ubatch-size" in self._all:
            self._lose(given, "one size counts here: that of --ubatch-size")
            return
        size = self._number(given, int, 32, math.inf)
        if size < 512:
            self._out.keys["batch_size"] = size
        else:
            self._lose(given, "the engine computes --ubatch-size tokens in one go: set batch_size to raise that")

    def _ubatch_size(self, given: Given) -> None:
        self._out.keys["batch_size"] = self._number(given, int, 32, 16384)

    def _cache_type(self, given: Given) -> None:
        self._out.keys[given.name.replace("-", "_")] = _one_of(given, CACHE_TYPES)

    def _flash_attn(self, given: Given) -> None:
        value = "on" if given.value in TRUE else "off" if given.value in FALSE else given.value
        self._out.keys["flash_attn"] = _one_of(Given(given.name, value, given.written), FLASH_ATTENTION)

    def _cache_ram(self, given: Given) -> None:
        if str(given.value).startswith("-"):
            self._lose(given, "a number of MiB is needed here")
        else:
            self._out.keys["cache_ram"] = self._number(given, int, 0, math.inf)

    def _n_gpu_layers(self, given: Given) -> None:
        if (layers := self._layers(given)) is not None:
            self._out.keys["n_gpu_layers"] = layers

    def _cpu_moe(self, given: Given) -> None:
        self._out.keys["cpu_moe"] = given.value is True

    def _n_cpu_moe(self, given: Given) -> None:
        self._out.keys["n_cpu_moe"] = self._number(given, int, 0, math.inf)

    def _mmproj(self, given: Given) -> None:
        self._out.keys.setdefault("mmproj", self._path(str(given.value)))

    def _chat_template_file(self, given: Given) -> None:
        self._out.keys["chat_template"] = self._path(str(given.value))

    def _layers(self, given: Given) -> int | None:
        if given.value in ("auto", "-1"):
            return None
        return -1 if given.value in ("all", "-2") else int(self._number(given, int, 0, math.inf))

    def _number(self, given: Given, kind: type, least: float, most: float) -> Any:
        number = _int(str(given.value)) if kind is int else _float(str(given.value))
        if number is None or not least <= number <= most:
            bounds = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
            raise NotCarriedError(given.written, f" {given.value}: here it is a number, {bounds}")
        return number


def _check_speculation(found: dict[str, Any], written: dict[str, str]) -> None:
    """Raises NotCarriedError: the options do not fit each other."""
    kinds = ["draft-simple" if kind == "draft" else kind for kind in str(found["type"]).split(",")]
    try:
        check_speculation(
            kinds, has_draft="file" in found or "hub" in found, n_max=found.get("n_max"), n_min=found.get("n_min"),
            p_min=found.get("p_min"), n_gpu_layers=found.get("n_gpu_layers"),
        )  # fmt: skip
    except ConfigError as error:
        place = next((key for key in ("n_max", "n_min", "p_min") if key.upper() in error.message), "type")
        place = "n_gpu_layers" if "_NGL" in error.message else place
        raise NotCarriedError(written.get(place) or next(iter(written.values())), f": {error.message}") from None


def _one_of(given: Given, allowed: Sequence[str]) -> str:
    if given.value not in allowed:
        raise NotCarriedError(given.written, f" {given.value}: not one of {', '.join(allowed)}")
    return str(given.value)


def _int(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,15}", text.strip(), re.ASCII) else None


def _float(text: str) -> float | None:
    pattern = r"[-+]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,2})?"
    return float(text) if re.fullmatch(pattern, text.strip(), re.ASCII) else None


def _typed(text: str) -> str | int | float:
    """A number where the text is one, as it would be written in TOML."""
    if variables_in(text):
        return text
    number: int | float | None = _int(text) if re.fullmatch(r"-?(?:0|[1-9][0-9]*)", text) else None
    if number is None and re.fullmatch(r"-?(?:0|[1-9][0-9]*)\.[0-9]+", text):
        number = _float(text)
        if number is not None and repr(number) != text:
            return text
    return text if number is None else number
