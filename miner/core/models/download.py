"""One file from a hub to the disk: resumed where it broke off, checked against its hash, by one process at a time."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from miner.core.models.hub import Hub, HubFile
from miner.core.models.names import HubRef
from miner.errors import BackendError, BackendProtocolError, BackendUnavailableError, MinerError

__all__ = ["Meter", "PullProgress", "Speed", "digest_of", "download", "locked"]

BLOCK = 1 << 18
RETRIES = 6
"""How often in a row nothing may come before the download is given up."""
PAUSE = 1.0
"""Seconds before the first of these; each one waits twice as long as the one before."""
STALL = 120.0
"""Seconds that another process may hold the same download without a byte of progress."""
LOOK = 0.25


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is. Sizes are bytes, times seconds."""

    stage: Literal["waiting", "checking", "downloading", "done"]
    """waiting: another process downloads the same file; checking: reading what is there already."""
    file: str
    number: int
    """Of the file, from one."""
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
        """The speed now that so many bytes are there; None while too little is known."""
        now = time.monotonic()
        self._samples.append((now, done))
        since, had = self._samples[0]
        return (done - had) / (now - since) if now - since > 0.5 and done > had else None


class Meter:
    """Counts bytes over all files and tells of them a few times a second."""

    def __init__(self, total: int, files: int, tell: Callable[[PullProgress], None] | None) -> None:
        self.total = total
        self.files = files
        self._tell = tell
        self._before = self._size = 0
        self._number = 0
        self._file = ""
        self._told = 0.0
        self._speed = Speed()

    def name(self, file: str) -> None:
        """Tell from now on of this file."""
        self._file = file
        self._told = 0.0

    def begin(self, file: str, size: int) -> None:
        """Go on to the next file, of so many bytes; the one before counts as done."""
        self.name(file)
        self._before += self._size
        self._size = size
        self._number += 1
        self._speed = Speed()

    def at(self, stage: Literal["waiting", "checking", "downloading", "done"], done: int) -> None:
        """So many bytes of the current file are there."""
        now = time.monotonic()
        if stage != "done" and now - self._told < 0.1:
            return
        self._told = now
        speed = self._speed.at(done) if stage == "downloading" else None
        left = (self.total - self._before - done) / speed if speed else None
        if self._tell is not None:
            progress = PullProgress(
                stage, self._file, self._number, self.files, self._before + done, self.total, speed, left
            )
            self._tell(progress)


def download(hub: Hub, ref: HubRef, revision: str, file: HubFile, part: Path, meter: Meter) -> None:
    """Fill `part` with the file, going on from what it holds, and check it. The caller holds the lock.

    Raises:
        BackendError: the hub refuses, fails, or sends something else.
        MinerError: the disk is full.
    """
    resumed = part.exists() and part.stat().st_size > 0
    digest = _fill(hub, ref, revision, file, part, meter)
    if digest != (file.sha256 or digest) and resumed:
        # What was there may have been spoiled by a crash of the machine: once more from the start.
        part.unlink()
        digest = _fill(hub, ref, revision, file, part, meter)
    if digest != (file.sha256 or digest):
        part.unlink()
        raise BackendProtocolError(
            f"{file.path} arrived with the SHA-256 {digest}, but {hub.endpoint} says {file.sha256}.",
            base_url=hub.endpoint,
            retryable=True,
            hint="It was damaged on the way, or is being replaced: pull again. What had arrived is thrown away.",
        )


def digest_of(path: Path, report: Callable[[int], None]) -> str:
    """SHA-256 of a file; `report` gets the bytes read so far."""
    hasher = hashlib.sha256()
    with path.open("rb") as content:
        _hash_rest(content, hasher, report)
    return hasher.hexdigest()


@contextmanager
def locked(place: Path, part: Path, waiting: Callable[[int], None]) -> Iterator[None]:
    """Hold the file `place` as a lock. It ends with the process, however that ends.

    Raises:
        BackendUnavailableError: another process holds it and has made no progress for two minutes.
    """
    while True:
        handle = os.open(place, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _wait_for(handle, part, waiting)
            try:
                current = os.stat(place).st_ino
            except FileNotFoundError:
                current = -1
            if os.fstat(handle).st_ino != current:
                continue  # whoever had it has removed it in the meantime
            try:
                yield
                return
            finally:
                place.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _wait_for(handle: int, part: Path, waiting: Callable[[int], None]) -> None:
    try:
        import fcntl
    except ImportError:
        return  # Windows: two pulls of one file at a time are not kept apart there
    seen, since = -1, time.monotonic()
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        size = part.stat().st_size if part.exists() else 0
        now = time.monotonic()
        if size != seen:
            seen, since = size, now
        elif now - since > STALL:
            raise BackendUnavailableError(
                f"Another process downloads the same file, and has made no progress for {STALL:.0f} s.",
                hint=f"End it, and pull again. Its part is {part}.",
            )
        waiting(size)
        time.sleep(LOOK)


def _fill(hub: Hub, ref: HubRef, revision: str, file: HubFile, part: Path, meter: Meter) -> str:
    """Download what is missing; the SHA-256 of it all."""
    failures = 0
    with part.open("r+b" if part.exists() else "w+b", buffering=0) as content:
        if os.fstat(content.fileno()).st_size > file.size:
            content.truncate(0)
        hasher = hashlib.sha256()
        have = _hash_rest(content, hasher, lambda done: meter.at("checking", done))
        while have < file.size:
            before = have
            cause: Exception | None = None
            try:
                with hub.reading(ref, revision, file, have) as (answer, begins):
                    if begins not in (0, have):
                        raise BackendProtocolError(f"{hub.endpoint} sent another part of {file.path} than asked for.")
                    if not begins and have:  # it cannot begin in the middle
                        content.seek(0)
                        content.truncate(0)
                        hasher, have, before = hashlib.sha256(), 0, 0
                    while have < file.size and (block := answer.read1(BLOCK)):
                        _write(content, block[: file.size - have], part)
                        hasher.update(block[: file.size - have])
                        have += min(len(block), file.size - have)
                        meter.at("downloading", have)
            except (OSError, http.client.HTTPException) as error:
                cause = error
            except BackendError as error:
                if not error.retryable:
                    raise
                cause = error
            if have >= file.size:
                break
            failures = 1 if have > before else failures + 1
            if failures > RETRIES:
                raise _broken(hub, file, have, cause) from cause
            time.sleep(PAUSE * 2 ** (failures - 1))
        os.fsync(content.fileno())
    return hasher.hexdigest()


def _broken(hub: Hub, file: HubFile, have: int, cause: Exception | None) -> MinerError:
    if isinstance(cause, MinerError):
        return cause
    return BackendUnavailableError(
        f"The download of {file.path} from {hub.endpoint} broke off at {have} of {file.size} bytes"
        f"{f': {cause}' if cause else ''}.",
        base_url=hub.endpoint,
        hint="Pull again: it goes on from there.",
    )


def _hash_rest(content: io.FileIO | io.BufferedReader, hasher: hashlib._Hash, report: Callable[[int], None]) -> int:
    done = 0
    while block := content.read(4 * BLOCK):
        hasher.update(block)
        done += len(block)
        report(done)
    return done


def _write(content: io.FileIO, block: bytes, part: Path) -> None:
    view = memoryview(block)
    try:
        while view:
            view = view[content.write(view) or 0 :]
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MinerError(f"{part} cannot be written: {error.strerror}.") from error
        raise MinerError(
            f"The disk of {part.parent} is full.",
            hint="Make room and pull again: it goes on from where it stopped. Or set MODELS_DIR to another disk.",
        ) from error
