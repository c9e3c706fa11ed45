"""The part of the Hugging Face hub's protocol that is needed to list a repository and to read its files.

Plain HTTP from the standard library, so that nothing more has to be installed. Proxies are those of the usual
environment variables. The token goes to the hub's own address alone, never to where it redirects.
"""

from __future__ import annotations

import difflib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from miner.core._typing import override
from miner.core.models.names import SUFFIX, HubRef
from miner.errors import (
    AuthenticationError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendUnavailableError,
    ConfigError,
    MinerError,
    ModelNotFoundError,
)

__all__ = ["DEFAULT_ENDPOINT", "Hub", "HubFile", "Repository", "hub_from_environment"]

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_ANSWER = 1 << 25
SHA256 = re.compile(r"[0-9a-f]{64}")
REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository."""

    path: str
    """Its place in the repository."""
    size: int
    """Bytes."""
    sha256: str | None
    """None where the hub does not tell."""


@dataclass(frozen=True, slots=True)
class Repository:
    """What a repository holds now."""

    revision: str
    """The commit, so that all files come from the same one."""
    files: tuple[HubFile, ...]
    """Its GGUF files."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub that speaks Hugging Face's protocol."""

    endpoint: str = DEFAULT_ENDPOINT
    """Its address, without a slash at the end."""
    token: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    """Longest silence, in seconds."""

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.endpoint):
            raise ConfigError(
                f"HF_ENDPOINT is {self.endpoint!r}, which is not the address of a hub.",
                hint=f"It looks like {DEFAULT_ENDPOINT}.",
            )

    def repository(self, ref: HubRef) -> Repository:
        """The GGUF files of a repository.

        Raises:
            ModelNotFoundError: there is no such repository, with the nearest names.
            BackendError: the hub refuses, fails or cannot be reached.
        """
        data = self._json(f"/api/models/{ref.repository}?blobs=true", ref)
        listed = data.get("siblings") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(listed, list):
            raise self._nonsense("lists no files")
        stated = data.get("sha")
        revision = stated if isinstance(stated, str) and REVISION.fullmatch(stated) else "main"
        found = [_file(item) for item in listed if isinstance(item, dict) and _is_safe(item.get("rfilename"))]
        return Repository(revision, tuple(found))

    @contextmanager
    def reading(
        self, ref: HubRef, revision: str, file: HubFile, start: int
    ) -> Iterator[tuple[http.client.HTTPResponse, int]]:
        """Open a file for reading; gives its bytes, and from which byte on they are: `start`, or 0 where the hub
        cannot begin there.

        Raises:
            ModelNotFoundError: the file is gone.
            BackendError: the hub refuses, fails or cannot be reached.
        """
        url = f"{self.endpoint}/{ref.repository}/resolve/{revision}/{urllib.parse.quote(file.path)}"
        request = self._request(url)
        if start:
            request.add_header("Range", f"bytes={start}-")
        with self._open(request, ref) as answer:
            begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            yield answer, int(begins[1]) if answer.status == 206 and begins else 0

    def complete(self, ref: HubRef, revision: str, file: HubFile) -> HubFile:
        """The file with its size and hash, asked for where the list did not have them.

        Raises:
            ModelNotFoundError: the file is gone.
            BackendError: the hub refuses, fails or cannot be reached.
        """
        if file.size and file.sha256:
            return file
        url = f"{self.endpoint}/{ref.repository}/resolve/{revision}/{urllib.parse.quote(file.path)}"
        with self._open(self._request(url, method="HEAD"), ref, stay=True) as answer:
            headers = answer.headers
        etag = headers.get("X-Linked-Etag", headers.get("ETag", "")).removeprefix("W/").strip('"')
        length = headers.get("X-Linked-Size", headers.get("Content-Length", ""))
        if not length.isdecimal():
            raise self._nonsense(f"does not tell the size of {file.path}")
        return HubFile(file.path, int(length), etag if SHA256.fullmatch(etag) else None)

    def _near(self, ref: HubRef) -> list[str]:
        """Repositories with a name like this one's; none where the hub does not say."""
        found: list[str] = []
        for query in ({"search": ref.repo, "filter": "gguf"}, {"author": ref.owner, "filter": "gguf"}):
            try:
                listed = self._json(f"/api/models?{urllib.parse.urlencode(query | {'limit': '50'})}", None)
            except MinerError:
                continue
            for item in listed if isinstance(listed, list) else ():
                name = item.get("id") if isinstance(item, dict) else None
                if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                    found.append(name)
        return difflib.get_close_matches(ref.repository, dict.fromkeys(found), n=3, cutoff=0.4)

    def _json(self, path: str, ref: HubRef | None) -> Any:
        with self._open(self._request(self.endpoint + path), ref) as answer:
            try:
                text = answer.read(MAX_ANSWER)
                return json.loads(text)
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            except ValueError as error:
                raise self._nonsense("is not JSON") from error

    def _request(self, url: str, *, method: str = "GET") -> urllib.request.Request:
        request = urllib.request.Request(url, method=method, headers={"User-Agent": "miner", "Accept": "*/*"})
        if self.token:
            # Unredirected: where the hub sends us to, the token is not wanted and not safe.
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        return request

    @contextmanager
    def _open(self, request: urllib.request.Request, ref: HubRef | None, *, stay: bool = False) -> Iterator[Any]:
        try:
            answer = urllib.request.build_opener(_Redirects(stay=stay)).open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if error.code >= 400:
                with error:
                    raise self._failure(error, ref) from error
            answer = error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error
        with answer:
            yield answer

    def _failure(self, error: urllib.error.HTTPError, ref: HubRef | None) -> MinerError:
        what = f"hf:{ref.repository}" if ref else "the list of models"
        kind = error.headers.get("X-Error-Code", "")
        said = error.headers.get("X-Error-Message", "") or error.reason
        details: dict[str, Any] = {"base_url": self.endpoint, "status": error.code}
        if ref is not None and (error.code == 404 or kind == "RepoNotFound"):
            near = self._near(ref)
            hints = [f"Did you mean {' or '.join(f'hf:{name}' for name in near)}?"] if near else []
            if kind != "EntryNotFound" and not self.token:
                hints.append("If it is private, set HF_TOKEN.")
            return ModelNotFoundError(
                f"The hub at {self.endpoint} has no {what}.",
                model=str(ref),
                available=[f"hf:{name}" for name in near],
                hint=" ".join(hints) or "Check the name.",
            )
        if error.code in (401, 403):
            page = f" after you have accepted its terms at {self.endpoint}/{ref.repository}" if ref else ""
            what_token = "The one that is set was refused." if self.token else "None is set."
            return AuthenticationError(
                f"The hub at {self.endpoint} refuses {what} ({error.code}: {said}).",
                hint=f"Set HF_TOKEN to a token that may read it{page}. {what_token}",
                **details,
            )
        if error.code == 429:
            wait = error.headers.get("Retry-After", "")
            return BackendOverloadedError(
                f"The hub at {self.endpoint} has had too many requests from here.",
                retry_after=float(wait) if wait.isdecimal() else None,
                hint="Try again later; with HF_TOKEN set, more are allowed.",
                **details,
            )
        if error.code >= 500 or error.code == 408:
            message = f"The hub at {self.endpoint} fails on {what} ({error.code}: {said})."
            return BackendUnavailableError(message, hint="Try again later.", **details)
        return BackendProtocolError(f"The hub at {self.endpoint} refuses {what} ({error.code}: {said}).", **details)

    def _unreachable(self, error: Exception) -> BackendUnavailableError:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return BackendUnavailableError(
            f"The hub at {self.endpoint} cannot be reached: {reason or type(error).__name__}.",
            base_url=self.endpoint,
            hint="Check the network, HF_ENDPOINT, and HTTPS_PROXY if you are behind a proxy.",
        )

    def _nonsense(self, what: str) -> BackendProtocolError:
        return BackendProtocolError(
            f"The answer of {self.endpoint} {what}.",
            base_url=self.endpoint,
            hint="Is HF_ENDPOINT the address of a hub?",
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else; with `stay`, not to another host either."""

    def __init__(self, *, stay: bool) -> None:
        self._stay = stay

    @override
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        same = (old.scheme, old.netloc) == (new.scheme, new.netloc)
        if new.scheme not in {"https", old.scheme}:
            raise urllib.error.HTTPError(newurl, 502, f"it redirects to {new.scheme}", headers, fp)
        if self._stay and not same:
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and same:  # a repository that was renamed
            following.method = req.get_method()
            for name, value in req.unredirected_hdrs.items():
                if name != "Host":
                    following.add_unredirected_header(name, value)
        return following


def hub_from_environment() -> Hub:
    """The hub that HF_ENDPOINT names, with the token of HF_TOKEN or of the file that `hf auth login` writes.

    Raises:
        ConfigError: HF_ENDPOINT is no address.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
        place = os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"))
        try:
            with open(place, encoding="utf-8") as file:
                token = file.read(1000).strip()
        except (OSError, UnicodeDecodeError):
            pass
    return Hub(endpoint, token or None)


def _file(item: dict[str, Any]) -> HubFile:
    stated = item.get("lfs")
    lfs = stated if isinstance(stated, dict) else {}
    size = lfs.get("size", item.get("size"))
    digest = lfs.get("sha256", lfs.get("oid", ""))
    known = isinstance(digest, str) and SHA256.fullmatch(digest)
    return HubFile(item["rfilename"], size if isinstance(size, int) and size > 0 else 0, digest if known else None)


def _is_safe(path: Any) -> bool:
    """Whether this is a GGUF's path that stays inside the repository's folder."""
    if not isinstance(path, str) or not path.lower().endswith(SUFFIX) or len(path) > 500:
        return False
    parts = path.split("/")
    return all(part and not part.startswith(".") for part in parts) and not re.search(r"[\x00-\x1f\x7f\\:]", path)
