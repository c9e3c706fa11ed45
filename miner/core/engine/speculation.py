"""Speculation: what its settings mean for each of llama.cpp's kinds (`--spec-type`).

"Most and fewest tokens of a draft" are two options of their own for each kind; draft models share theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from miner.config.llamacpp import SPECULATION
from miner.errors import ConfigError

NEEDS_DRAFT: Final = ("draft-simple", "draft-eagle3", "draft-dflash", "draft-dspark")
"""Kinds by another model; the heads of draft-mtp may be a part of the model itself."""
_SIMPLE_LOOKUP, _MOD_LEAST = 12, 48
"""llama.cpp's defaults. A draft that is shorter is dropped: with these, a short `n_max` would never guess anything."""


def check_speculation(
    kinds: Sequence[str], *, has_draft: bool, n_max: int | None, n_min: int | None, p_min: float | None,
    n_gpu_layers: int | None,
) -> None:  # fmt: skip
    """Check that each setting is one of these kinds'.

    Raises:
        ConfigError: names the one that is not.
    """
    for kind in kinds:
        if kind not in SPECULATION:
            raise ConfigError(
                f"LLAMACPP_SPEC_TYPE={kind!r}: must be one of {', '.join(SPECULATION)}.",
            )
    named = ",".join(kinds)
    by_model = any(kind.startswith("draft-") for kind in kinds)
    if not has_draft and set(kinds) & set(NEEDS_DRAFT):
        raise ConfigError(
            f"LLAMACPP_SPEC_TYPE={named!r} needs a draft model.",
            operator_hint="Set LLAMACPP_SPEC_DRAFT_MODEL; in miner.toml, file or hub of speculation.",
        )
    has_most, has_least = bool(set(kinds) - {"ngram-cache"}), by_model or "ngram-mod" in kinds
    for setting, value, is_used in (
        ("MODEL", has_draft or None, by_model), ("N_MAX", n_max, has_most), ("N_MIN", n_min, has_least),
        ("P_MIN", p_min, by_model), ("NGL", n_gpu_layers, by_model),
    ):  # fmt: skip
        if value is not None and not is_used:
            shown = "" if setting == "MODEL" else f"={value}"
            raise ConfigError(
                f"LLAMACPP_SPEC_DRAFT_{setting}{shown} has no effect with LLAMACPP_SPEC_TYPE={named!r}.",
                operator_hint="Unset it, or choose another kind of speculation.",
            )
    if n_max is not None and n_min is not None and n_min > n_max:
        raise ConfigError(f"LLAMACPP_SPEC_DRAFT_N_MIN={n_min} is more than LLAMACPP_SPEC_DRAFT_N_MAX={n_max}.")


def draft_lengths(kinds: Sequence[str], n_max: int | None, n_min: int | None) -> list[tuple[str, int, str]]:
    """Attributes of `CommonParams.speculative` for the lengths of drafts, with the setting that each is for; the option
    is called `--spec-` and the same with dashes.
    """
    found: dict[str, tuple[int | None, str]] = {}
    for kind in kinds:
        own = kind.replace("-", "_")
        if kind.startswith("draft-"):
            found["draft.n_max"], found["draft.n_min"] = (n_max, "N_MAX"), (n_min, "N_MIN")
        elif kind == "ngram-mod":
            least = min(_MOD_LEAST, n_max) if n_min is None and n_max is not None else n_min
            found["ngram_mod.n_max"], found["ngram_mod.n_min"] = (n_max, "N_MAX"), (least, "N_MIN")
        elif kind != "ngram-cache":
            found[f"{own}.size_m"] = n_max, "N_MAX"
            if kind == "ngram-simple" and n_max is not None and n_max < _SIMPLE_LOOKUP:
                found[f"{own}.size_n"] = n_max, "N_MAX"
    return [
        (attribute, value, f"LLAMACPP_SPEC_DRAFT_{name}")
        for attribute, (value, name) in found.items()
        if value is not None
    ]
