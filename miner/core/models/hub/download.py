"""One file from a hub to the disk: resumed where it broke off, checked against its hash, by one process at a time."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from miner.core.models.hub.client import Hub, HubFile
from miner.core.models.names import HubRef
from miner.errors import BackendError, BackendProtocolError, BackendUnavailableError

RETRIES = 5
"""Consecutive failed attempts without progress; huggingface_hub retries within each."""
PAUSE = 1.0
"""Seconds before the next attempt; each time twice as long."""
STALL = 300.0
"""Seconds that another process may hold the same download without progress."""
LOOK = 0.25
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Progress of a pull. Sizes are bytes, times seconds."""

    stage: Literal["waiting", "checking", "downloading", "done"]
    """waiting: another process downloads the same file; checking: reading what is there already."""
    file: str
    number: int
    """Number of the file, from one."""
    files: int
    done: int
    """Bytes of all files together."""
    total: int
    speed: float | None = None
    """Bytes a second, over the last seconds."""
    left: float | None = None
    """Seconds until the end at this speed."""


class Speed:
    """Bytes a second over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=50)

    def at(self, done: int) -> float | None:
        """Return the speed at so many bytes; None with too few samples."""
        now = time.monotonic()
        self._samples.append((now, done))
        since, had = self._samples[0]
        return (done - had) / (now - since) if now - since > 0.5 and done > had else None


class Meter:
    """Counts bytes over all files and reports them a few times a second."""

    def __init__(self, total: int, files: int, report: Callable[[PullProgress], None]) -> None:
        self.total = total
        self.files = files
        self._report = report
        self._before = self._size = 0
        self._number = 0
        self._file = ""
        self._reported_at = 0.0
        self._speed = Speed()

    def name(self, file: str) -> None:
        """Report this file from now on."""
        self._file = file
        self._reported_at = 0.0

    def begin(self, file: str, size: int) -> None:
        """Start the next file, of so many bytes; the one before counts as done."""
        self.name(file)
        self._before += self._size
        self._size = size
        self._number += 1
        self._speed = Speed()

    def at(self, stage: Literal["waiting", "checking", "downloading", "done"], done: int) -> None:
        """Report the bytes of the current file so far."""
        now = time.monotonic()
        if stage != "done" and now - self._reported_at < 0.1:
            return
        self._reported_at = now
        speed = self._speed.at(done) if stage == "downloading" else None
        left = (self.total - self._before - done) / speed if speed else None
        self._report(
            PullProgress(stage, self._file, self._number, self.files, self._before + done, self.total, speed, left)
        )


def download(hub: Hub, ref: HubRef, revision: str, file: HubFile, part: Path, meter: Meter) -> None:
    """Fill `part` with the file, continuing after what it holds, and check it. The caller holds the lock.

    Raises:
        BackendError: the hub refuses, fails, or sends something else.
        OSError: the disk is full, or fails.
    """
    resumed = part.exists() and part.stat().st_size > 0
    digest = _filled(hub, ref, revision, file, part, meter)
    if digest != (file.sha256 or digest) and resumed:
        # What was there may have been spoiled by a crash of the machine: restart from the beginning.
        part.unlink()
        digest = _filled(hub, ref, revision, file, part, meter)
    if digest != (file.sha256 or digest):
        part.unlink()
        raise BackendProtocolError(
            f"{file.path} arrived with the SHA-256 {digest}, but {hub.endpoint} says {file.sha256}.",
            base_url=hub.endpoint,
            retryable=True,
            hint="It was damaged on the way, or is being replaced on the hub: pull again. The partial file is deleted.",
        )


def digest_of(path: Path, report: Callable[[int], None]) -> str:
    """SHA-256 of a file; `report` gets the bytes read so far."""
    hasher, done = hashlib.sha256(), 0
    with path.open("rb") as content:
        while block := content.read(BLOCK):
            hasher.update(block)
            done += len(block)
            report(done)
    return hasher.hexdigest()


def lock(held: ExitStack, place: Path, waiting: Callable[[], None]) -> None:
    """Hold the file `place` as a lock until the stack ends, or the process, however it does. Its holder touches it.

    Raises:
        BackendUnavailableError: another process holds it and has not touched it for some minutes.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # in its list of names, though

    seen, since = -1, time.monotonic()
    while True:
        try:
            held.enter_context(WeakFileLock(place, timeout=LOOK))
        except TimeoutError:
            changed, now = place.stat().st_mtime_ns, time.monotonic()
            if changed != seen:
                seen, since = changed, now
            elif now - since > STALL:
                raise BackendUnavailableError(
                    f"Another process is downloading the same file and has made no progress for {STALL:.0f} s.",
                    operator_hint=f"Stop it and pull again. It holds the lock {place}.",
                ) from None
            waiting()
        else:
            return


def _filled(hub: Hub, ref: HubRef, revision: str, file: HubFile, part: Path, meter: Meter) -> str:
    """Download what is missing; the SHA-256 of it all.

    huggingface_hub's `hf_hub_download` deletes an interrupted download, so that a killed pull would start again, and it
    verifies no hash. Its `http_get` resumes a partial file.
    """
    failures = 0
    with part.open("ab") as content:
        if content.tell() > file.size:
            content.truncate(0)
        while (have := content.seek(0, os.SEEK_END)) < file.size:
            try:
                with hub.mapped_errors(ref):
                    from huggingface_hub.file_download import http_get

                    http_get(
                        hub.url(ref, revision, file),
                        content,
                        resume_size=have,
                        headers=hub.headers() | {"accept-encoding": "identity"},
                        tqdm_class=_Bar.of(file, meter),
                    )
            except BackendError as error:
                now = content.seek(0, os.SEEK_END)
                failures = 1 if now > have else failures + 1
                if not error.retryable:
                    raise
                if failures > RETRIES:
                    raise _broken(hub, file, now, error) from error
                time.sleep(PAUSE * 2 ** (failures - 1))
        content.flush()
        os.fsync(content.fileno())
    return digest_of(part, lambda done: meter.at("checking", done))


class _Bar:
    """The part of tqdm's interface that `http_get` uses."""

    file: HubFile
    meter: Meter

    @classmethod
    def of(cls, file: HubFile, meter: Meter) -> type[Any]:
        """A progress bar class for `http_get` that reports to the meter."""
        return type("_BarOfFile", (cls,), {"file": file, "meter": meter})

    def __init__(self, *, initial: int, **_: object) -> None:
        self.done = initial

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, more: int) -> None:
        self.done += more
        if self.done > self.file.size:
            raise BackendProtocolError(f"{self.file.path} is larger than the announced {self.file.size} bytes.")
        self.meter.at("downloading", self.done)


def _broken(hub: Hub, file: HubFile, have: int, cause: BackendError) -> BackendError:
    if cause.status is not None:
        return cause
    return BackendUnavailableError(
        f"The download of {file.path} from {hub.endpoint} broke off at {have} of {file.size} bytes: {cause.message}",
        base_url=hub.endpoint,
        hint="Pull again: it continues from there.",
    )
