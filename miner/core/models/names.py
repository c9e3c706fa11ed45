"""The names of GGUF files: parts of one model, quantizations, and the file that a reference means.

Pure functions on names, the same for a directory on disk and for a repository on a hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miner.core._typing import override
from miner.core.counted import counted
from miner.errors import InvalidRequestError, ModelNotFoundError

SUFFIX = ".gguf"
TAG = ":latest"
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")
QUANTIZATION = re.compile(
    r"(?:^|[-._/])((?:UD[-_])?(?:I?Q\d+(?:_[0-9A-Z]+)*|TQ\d_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32))(?=$|[-._/])",
    re.IGNORECASE,
)
REFERENCE = re.compile(r"([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?::(.{1,300}))?")
PREFIXES = ("hf:", "hf.co/", "huggingface.co/")
PREFERRED = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_XL", "IQ4_XS", "Q5_K_M", "Q8_0", "Q6_K", "F16", "BF16")
"""Quantizations for a reference without one: the first of these that exists."""
PROJECTORS = ("F16", "BF16", "Q8_0", "F32")


@dataclass(frozen=True, slots=True)
class FileGroup:
    """One model's files."""

    name: str
    """The common name: without `.gguf` and without the number of the part; directories are kept."""
    files: tuple[str, ...]
    """The existing parts, in order."""
    missing: tuple[str, ...] = ()
    """The missing parts."""

    @property
    def quantization(self) -> str | None:
        """The quantization in the name."""
        return quantization_in(self.name)


@dataclass(frozen=True, slots=True)
class HubRef:
    """A model in a repository on a hub."""

    owner: str
    repo: str
    selector: str | None = None
    """A quantization or a file's name."""

    @property
    def repository(self) -> str:
        """`owner/repo`."""
        return f"{self.owner}/{self.repo}"

    @override
    def __str__(self) -> str:
        return f"hf:{self.repository}" + (f":{self.selector}" if self.selector else "")


def parse_ref(text: str) -> HubRef | None:
    """The reference in `[hf:]owner/repo[:quant or file]`, or as Ollama writes it: `hf.co/owner/repo[:quant or latest]`;
    None where the text has another form.
    """
    prefix = next((prefix for prefix in PREFIXES if text.startswith(prefix)), "")
    match = REFERENCE.fullmatch(text.removeprefix(prefix))
    if match is None or ".." in text:
        return None
    return HubRef(match[1], match[2], match[3] if match[3] != "latest" else None)


def is_projector(name: str) -> bool:
    """Whether this is a vision or audio projector, which is not a model by itself."""
    return "mmproj" in name.rsplit("/", 1)[-1].lower()


def model_stem(name: str) -> str:
    """The name without `.gguf` and without the number of the part."""
    stem = name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name
    return SPLIT.sub("", stem)


def without_tag(name: str) -> str:
    """The name without Ollama's `:latest`, which its clients append to any name."""
    return name[: -len(TAG)] if name.lower().endswith(TAG) else name


def quantization_in(name: str) -> str | None:
    """The last quantization that the name mentions, in capitals."""
    found = QUANTIZATION.findall(model_stem(name))
    return found[-1].upper().replace("UD_", "UD-").replace("FP16", "F16").replace("FP32", "F32") if found else None


def group(names: Iterable[str]) -> list[FileGroup]:
    """The models among these files, by name; projectors and other files are left out."""
    groups: dict[str, set[str]] = {}
    for name in names:
        if name.lower().endswith(SUFFIX) and not is_projector(name):
            stem = name[: -len(SUFFIX)]
            split = SPLIT.search(stem)
            # The count stays in the key: two splits of one name with other counts are two models.
            groups.setdefault(f"{stem[: split.start()]}\0{split[2]}" if split else stem, set()).add(name)
    return sorted((_file_group(key, files) for key, files in groups.items()), key=lambda item: item.name.lower())


def _file_group(key: str, files: set[str]) -> FileGroup:
    name, _, count = key.partition("\0")
    wanted = [f"{name}-{number:05}-of-{count}" for number in range(1, int(count) + 1)] if count else []
    there = {file[: -len(SUFFIX)] for file in files}
    missing = tuple(part + SUFFIX for part in wanted if part not in there)
    return FileGroup(name, tuple(sorted(files)), missing)


def choose(groups: Sequence[FileGroup], ref: HubRef, *, place: str) -> FileGroup:
    """The one model of a repository that the reference means.

    A selector is a file's name, else a quantization, in any case. Without one: the only model, else the first of
    `PREFERRED` that is there.

    Raises:
        ModelNotFoundError: none fits, or several do; the message lists the models in `place`.
    """
    there = [item.name for item in groups]
    if not groups:
        raise ModelNotFoundError(f"There is no GGUF model in {place}.", model=str(ref), hint="Use another repository.")
    if ref.selector is None:
        candidates = _preferred(groups)
    else:
        wanted = ref.selector.lower()
        stem = model_stem(wanted)
        candidates = [item for item in groups if f"/{item.name.lower()}".endswith(f"/{stem}")]
        candidates = candidates or [item for item in groups if (item.quantization or "").lower() == wanted]
        candidates = candidates or [item for item in groups if (item.quantization or "").lower() == f"ud-{wanted}"]
    if len(candidates) == 1:
        return candidates[0]
    names = [item.name for item in candidates] or there
    what = "fits none" if not candidates else f"fits {len(candidates)}"
    raise ModelNotFoundError(
        f"{str(ref)!r} {what} of the {counted(len(groups), 'model')} in {place}: {', '.join(names[:40])}.",
        model=str(ref),
        available=names,
        hint=f"Name one by its quantization or its file: hf:{ref.repository}:{groups[0].quantization or names[0]}",
    )


def _preferred(groups: Sequence[FileGroup]) -> list[FileGroup]:
    if len(groups) == 1:
        return list(groups)
    for quantization in PREFERRED:
        found = [item for item in groups if item.quantization in {quantization, f"UD-{quantization}"}]
        if found:
            return found if len(found) == 1 else [item for item in found if item.quantization == quantization] or found
    return list(groups)


def projector_choice(names: Iterable[str]) -> str | None:
    """The projector to use where there are several: F16 before the others."""
    there = sorted(name for name in names if is_projector(name) and name.lower().endswith(SUFFIX))
    for quantization in PROJECTORS:
        for name in there:
            if quantization_in(name) == quantization:
                return name
    return there[0] if there else None


def check_name(name: str) -> None:
    """Refuse what cannot be a model's name.

    Raises:
        InvalidRequestError: it is empty, very long, or holds control characters.
    """
    if not name.strip() or len(name) > 1000 or any(ord(sign) < 32 or ord(sign) == 127 for sign in name):
        raise InvalidRequestError(f"model: {name[:80]!r} cannot be the name of a model.", param="model")
