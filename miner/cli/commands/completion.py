"""`miner completion`: the script that lets a shell complete commands, options, files and names."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

from miner.cli.output.errors import note
from miner.cli.parser import UsageError, add_json_option
from miner.errors import ConfigError, MinerError

_EPILOG = """\
examples:
  miner completion bash > ~/.local/share/bash-completion/completions/miner
  miner completion zsh > ~/.zfunc/_miner
  miner completion fish > ~/.config/fish/completions/miner.fish

Where the script goes is printed on standard error. It completes commands,
options, files, and the names of models, backends and keys of this machine, of
settings, and of programs to launch. It is for the miner that has printed it:
print it again after an update.
"""
_PLACES = {
    "bash": "~/.local/share/bash-completion/completions/miner (needs the package bash-completion), "
    'or try it: eval "$(miner completion bash)"',
    "zsh": "a file _miner in a directory of $fpath, such as ~/.zfunc with `fpath+=~/.zfunc; autoload -Uz compinit; "
    "compinit` in ~/.zshrc",
    "fish": "~/.config/fish/completions/miner.fish, or try it: miner completion fish | source",
}
_KINDS = ("models", "backends", "keys", "programs", "settings")
_FILES = ("FILE", "PATH", "FILE|JSON", "FILE|URL")
_MODEL_COMMANDS = ("show", "rm", "run", "load", "unload", "stop", "fit", "path", "reset")
"""Commands and actions whose NAME is a model."""
_KEY_ACTIONS = ("update", "rotate", "revoke", "show")


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Print a script that completes commands, options and names with TAB.",
        epilog=_EPILOG,
        usage="miner completion bash|zsh|fish",
    )
    parser.set_defaults(run=run)
    parser.add_argument("shell", nargs="?", choices=tuple(_PLACES), help="bash, zsh or fish; default: that of $SHELL")
    add_json_option(parser)
    # What the scripts call.
    parser.add_argument("--names", choices=_KINDS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Print the script; return the exit status."""
    from miner.cli.output.tables import print_json

    if args.names is not None:
        names = list(_names(args.names))
        if args.json:
            print_json({"names": names})
        else:
            print("\n".join(names), end="\n" if names else "")
        return 0
    shell = args.shell or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in _PLACES:
        raise UsageError("Which shell?", operator_hint=f"One of: {', '.join(_PLACES)}.")
    script = _script(shell)
    if args.json:
        print_json({"shell": shell, "place": _PLACES[shell], "script": script})
        return 0
    print(script)
    note(f"miner: Put it into {_PLACES[shell]}.")
    return 0


def _script(shell: str) -> str:
    from miner.cli.main import all_parsers

    try:
        import shtab
    except ModuleNotFoundError as error:
        raise ConfigError(
            "`miner completion` needs the package shtab, which is not installed.",
            operator_hint='Install it with: pip install "llm-service-backends[cli]"',
        ) from error
    parser = all_parsers()
    _describe(parser, ())
    script = shtab.complete(parser, shell=shell, preamble=_FUNCTIONS[shell]).rstrip()
    return script + ("\n\n" + _BASH_WORDS.strip() if shell == "bash" else "")


_BASH_NAMES = r"""
# $1=kind $2=the word as typed. Others may have chosen a name: nothing here expands it, as `compgen -W` would,
# and what is inserted is quoted, so that the shell reads it as the name.
_miner_names() {
  local quote= typed="$2" cut= name
  case "$typed" in [\"\']*) quote="${typed:0:1}" typed="${typed:1}" ;; esac
  [[ $quote == \' ]] || IFS= read typed <<< "$typed"  # takes off backslashes
  # Without quotes, readline replaces only what follows a colon, or begins with @.
  [[ -z $quote && $typed == *[:@]* && $COMP_WORDBREAKS == *[:@]* ]] && cut="${typed%"${typed##*[:@]}"}" cut="${cut%@}"
  while IFS= read -r name; do
    [[ $name == "$typed"* ]] || continue
    case "$quote" in
      \') printf '%s\n' "${name//\'/\'\\\'\'}" ;;
      \")
        [[ $name == *!* ]] && continue  # the history's, also between double quotes
        name="${name//\\/\\\\}" name="${name//\"/\\\"}" name="${name//\$/\\\$}"
        printf '%s\n' "${name//\`/\\\`}" ;;
      *) printf '%q\n' "${name#"$cut"}" ;;
    esac
  done < <(miner completion --names "$1" 2>/dev/null)
}
"""
_BASH_WORDS = r"""
# The words as miner will get them: bash splits them at a colon and @, which names of models have.
_miner_complete() {
  local line="$COMP_LINE" rest word i last=-1 here=0
  local -a words=()
  for i in "${!COMP_WORDS[@]}"; do
    word="${COMP_WORDS[i]}" rest="${line#"${line%%[![:space:]]*}"}"
    if (( last >= 0 )) && [[ $rest == "$line" && ( $word == [:@]* || ${words[last]} == *[:@] ) ]]; then
      words[last]+="$word"
    else
      words+=("$word") last=$(( last + 1 ))
    fi
    line="${rest#"$word"}"
    (( i == COMP_CWORD )) && here=$last
  done
  COMP_WORDS=("${words[@]}") COMP_CWORD=$here
  _shtab_miner
}

complete -o bashdefault -F _miner_complete miner
"""
_FUNCTIONS = {
    "bash": _BASH_NAMES.strip() + "".join(f'\n_miner_{kind}() {{ _miner_names {kind} "$1"; }}' for kind in _KINDS),
    "zsh": "\n".join(
        f'_miner_{kind}() {{ local -a names; names=("${{(@f)$(miner completion --names {kind} 2>/dev/null)}}"); '
        f'names=("${{(@)names:#}}"); compadd -a names }}'
        for kind in _KINDS
    ),
    "fish": "",
}
"""What the scripts call for names. zsh and fish quote what they insert themselves."""


def _describe(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> None:
    """Say of each argument how it is completed, in the way of shtab: an attribute `complete`."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                _describe(child, (*path, name))
            continue
        kind = _kind_of(action, path)
        if kind is not None:
            action.complete = {  # type: ignore[attr-defined]
                "bash": f"_miner_{kind}", "zsh": f"_miner_{kind}",
                "fish": f"(miner completion --names {kind} 2>/dev/null)",
            }  # fmt: skip
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "DIRECTORY":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def _kind_of(action: argparse.Action, path: tuple[str, ...]) -> str | None:
    """The names that an argument takes; None: any text."""
    if action.choices is not None:
        return None
    if "--model" in action.option_strings or action.metavar == "MODEL":
        return "models"
    if "--backend" in action.option_strings:
        return "backends"
    if path[-1:] == ("launch",) and action.metavar == "PROGRAM":
        return "programs"
    if action.option_strings or action.metavar != "NAME":
        return None
    if path == ("config", "show"):
        return "settings"
    if path[:1] == ("keys",):
        return "keys" if path[-1] in _KEY_ACTIONS else None
    return "models" if path[-1:] and path[-1] in _MODEL_COMMANDS and path[0] != "config" else None


def _names(kind: str) -> Iterator[str]:
    """The names of a kind here; none where the settings are wrong: a shell that completes shows no errors.

    The scripts read a name a line, and shells show them: one with a line end or another control character is left out.
    """
    try:
        found = {
            "models": _models, "backends": _backends, "keys": _keys, "programs": _programs, "settings": _settings,
        }[kind]()  # fmt: skip
        yield from (name for name in found if name and name.isprintable())
    except MinerError:
        return


def _models() -> Iterator[str]:
    from miner.config.config import MinerConfig
    from miner.config.file.find import find_config
    from miner.config.file.read import read_config
    from miner.core.llms.llamacpp.models import models_directory
    from miner.core.models.resolve import list_local

    settings = MinerConfig()
    path = find_config(settings.config)
    if path is not None:
        yield from read_config(path).content.models
        return
    for found in list_local(models_dir=models_directory(settings)):
        yield found.alias


def _backends() -> Iterator[str]:
    from importlib.metadata import entry_points

    yield from sorted({point.name for point in entry_points(group="inference.backends")})


def _keys() -> Iterator[str]:
    from miner.gateway.auth.keys import key_path, read_keys
    from miner.gateway.settings import GatewaySettings

    try:
        for entry in read_keys(key_path(GatewaySettings().api_keys_file)).keys:
            yield entry.name
    except FileNotFoundError:
        return


def _programs() -> Iterator[str]:
    from miner.cli.launch.registry import CLIENTS

    yield from CLIENTS


def _settings() -> Iterator[str]:
    """What `miner config show` takes: the settings, and the tables of the file."""
    from miner.cli.configuration.settings import all_classes
    from miner.config.config import MinerConfig
    from miner.config.file.find import find_config
    from miner.config.file.read import read_config
    from miner.config.sources import variable_of

    for cls in all_classes():
        for name in cls.model_fields:
            yield variable_of(name)
    path = find_config(MinerConfig().config)
    if path is not None:
        content = read_config(path).content
        yield from dict.fromkeys(("limits", *content.models, *content.backends, *content.groups))
