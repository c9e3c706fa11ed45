"""The `presets.ini` of llama-server's router (`--models-preset`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from miner.cli.imports.draft import Draft, Section, is_secret
from miner.cli.imports.engine_arguments import FALSE, TRUE, Given, NotCarriedError
from miner.cli.imports.engine_option_names import ENGINE_OPTIONS
from miner.cli.imports.engine_options import keys_of
from miner.cli.imports.ini_file import Preset, read_presets
from miner.cli.imports.paths import PathFinder
from miner.core.models.names import parse_ref
from miner.errors import ConfigError

_ALL = "*"
_PRESET_ONLY = {
    "stop-timeout": "miner stops its engines itself",
    "dedup-cache-models": "lists show only the models of this file",
}


def import_llama_server(path: Path, finder: PathFinder) -> Draft:
    """Read the file.

    Raises:
        ConfigError: it cannot be read, or llama-server would not read it; or it has no models.
    """
    presets = read_presets(path)
    draft = Draft(f"From {path.name} of llama-server's router, by `miner import llama-server`.")
    shared = [preset for preset in presets if preset.name == _ALL]
    models = [preset for preset in presets if preset.name != _ALL]
    if any(key.lstrip("-") == "version" for preset in models if preset.name == "default" for key, _ in preset.pairs):
        models = [each for each in models if each.name != "default" or _without_version(each)]
    if not models:
        raise ConfigError(f"{path} has no models: no section but [*].")
    backend = draft.section("backends", "llamacpp")
    backend.set("kind", "llamacpp")
    backend.comment('server = "llama-server"  # to run yours instead of the engine that comes with miner')
    draft.top.comment(
        "Options of llama-server's own command line are not in that file: --models-max is [limits] max_loaded."
    )
    _twice(draft, shared, models)
    last = {preset.name: preset for preset in models}
    for preset in last.values():
        _model(draft, preset, shared[-1] if shared else None, finder)
    return draft


def _without_version(preset: Preset) -> list[tuple[str, str]]:
    return [pair for pair in preset.pairs if pair[0].lstrip("-") != "version"]


def _twice(draft: Draft, shared: list[Preset], models: list[Preset]) -> None:
    """Sections that stand twice: the last one counts, for llama-server too."""
    seen: dict[str, Preset] = {}
    for preset in [*shared, *models]:
        if preset.name in seen:
            first = seen[preset.name]
            for key, _ in first.pairs:
                draft.top.lose(f"[{preset.name}]", key, None, f"line {first.line}: the section stands there again")
        seen[preset.name] = preset


def _model(draft: Draft, preset: Preset, shared: Preset | None, finder: PathFinder) -> None:
    where = f"[{preset.name}]"
    name = draft.name_for("models", preset.name)
    section = draft.section("models", name)
    if name != preset.name:
        section.set("aliases", [preset.name])
    given: dict[str, Given] = {}
    for source, inside in ((shared, f"[{_ALL}]"), (preset, where)):
        if source is None:
            continue
        for key, why in source.remarks:
            section.change(f"{inside}.{key}", why)
        for each in _given(section, source.pairs, inside):
            given[each.name] = each
    options = list(given.values())
    if not any(each.name in ("model", "hf-repo") for each in options):
        _known_model(section, preset.name)
    while True:  # one option after the other is left out, until the rest can be carried over
        try:
            keys = keys_of(options, finder.named, binary=False)
            break
        except NotCarriedError as error:
            culprit = next((each for each in options if each.written == error.written), None)
            if culprit is None:
                raise ConfigError(f"{where}: {error}.") from None
            options.remove(culprit)
            section.lose(where, culprit.written, culprit.value, str(error))
    keys.write(section, where)
    for hub in (section.get("hub"), (section.get("speculation") or {}).get("hub")):
        if hub is not None:
            draft.steps.append(f"miner models pull hf:{hub}")


def _given(section: Section, pairs: Iterable[tuple[str, str]], where: str) -> Iterable[Given]:
    """The options of one section; those that are only for the router are written at once."""
    for written, value in pairs:
        key = written.lstrip("-")
        option = ENGINE_OPTIONS.get(key)
        if key in ("version", "LLAMA_ARG_VERSION"):
            continue
        if key in ("load-on-startup", "LLAMA_ARG_PRESET_LOAD_ON_STARTUP", "__PRESET_LOAD_ON_STARTUP"):
            section.set("preload", True if value in TRUE else None)
        elif key in _PRESET_ONLY:
            section.lose(where, key, value, _PRESET_ONLY[key])
        elif option is None:
            section.lose(where, written, value, "no option of llama-server that is known here")
        elif option.takes_value:
            yield Given(option.name, value, written)
        elif value in (*TRUE, *FALSE):
            on = (value in TRUE) != option.negated
            yield Given(option.name, on, written)
        else:
            section.lose(
                where, written, None if is_secret(written) else value, f"neither {'/'.join(TRUE)} nor {'/'.join(FALSE)}"
            )


def _known_model(section: Section, name: str) -> None:
    """A section without a model is about one that llama-server has: from its cache, or its directory."""
    if parse_ref(name) is not None:
        section.set("hub", name)
    else:
        section.set("file", name, "as it is called in the models directory")
