"""A Hugging Face hub through `huggingface_hub`: a repository's files and their URLs; maps the library's errors to
miner's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from miner.core.models.names import SUFFIX, HubRef
from miner.errors import (
    AuthenticationError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendUnavailableError,
    ConfigError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
)

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoSibling

DEFAULT_ENDPOINT = "https://huggingface.co"
BLOCK = 1 << 16
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository."""

    path: str
    """Path in the repository."""
    size: int
    """Bytes."""
    sha256: str | None
    """None where the hub does not list it."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

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
    """None: the one that `hf auth login` has stored, if there is one."""

    def __post_init__(self) -> None:
        # Both would stand in messages, the library's own among them.
        if "@" in self.endpoint.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                "HF_ENDPOINT holds a user name or password.", operator_hint="Leave it out, and set HF_TOKEN."
            )
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise ConfigError(
                "HF_TOKEN is not a token: it has a space, a line break or another invalid character.",
                operator_hint="Copy it again.",
            )

    def repository(self, ref: HubRef) -> Repository:
        """The GGUF files of a repository.

        Raises:
            ModelNotFoundError: there is no such repository, with the nearest names.
            BackendError: the hub refuses, fails or cannot be reached.
            ConfigError: huggingface_hub is not installed, or HF_HUB_OFFLINE is set.
        """
        with self.mapped_errors(ref):
            from huggingface_hub import HfApi, constants

            api = HfApi(self.endpoint, token=self.token)
            info = api.model_info(ref.repository, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
            found = [_file(item) for item in info.siblings or () if _is_safe(item.rfilename)]
        return Repository(info.sha or "main", tuple(found))

    def complete(self, ref: HubRef, revision: str, file: HubFile) -> HubFile:
        """The file with its size and hash, by a request of its own where the list did not have them.

        Raises:
            ModelNotFoundError: the file was removed.
            BackendError: the hub refuses, fails or cannot be reached.
        """
        if file.size and file.sha256:
            return file
        with self.mapped_errors(ref):
            from huggingface_hub import get_hf_file_metadata

            url = self.url(ref, revision, file)
            known = get_hf_file_metadata(url, token=self.token, endpoint=self.endpoint, retry_on_errors=True)
        if known.size is None:
            raise self._malformed(f"lacks the size of {file.path}")
        return HubFile(file.path, known.size, known.etag if SHA256.fullmatch(known.etag or "") else None)

    def url(self, ref: HubRef, revision: str, file: HubFile) -> str:
        """Return the file's URL."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(ref.repository, file.path, revision=revision, endpoint=self.endpoint)

    def headers(self) -> dict[str, str]:
        """Headers of each request. The library sends the token to the hub only, never to a redirect's target."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # in its documentation, though

        return build_hf_headers(token=self.token)

    @contextmanager
    def mapped_errors(self, ref: HubRef) -> Iterator[None]:
        """Turn what huggingface_hub raises into a MinerError; an OSError is one of this machine's disk.

        Raises:
            ModelNotFoundError: the hub has no such file or repository.
            BackendError: the hub refuses, fails or cannot be reached.
            ConfigError: huggingface_hub is not installed, or HF_HUB_OFFLINE is set.
        """
        _prepare()
        from httpx2 import HTTPError  # huggingface_hub raises what its client does
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        try:
            yield
        except HfHubHTTPError as error:
            raise self._refusal(error, ref) from error
        except OfflineModeIsEnabled as error:
            raise ConfigError("The hub is not contacted: HF_HUB_OFFLINE is set.", operator_hint="Unset it.") from error
        except HTTPError as error:
            raise BackendUnavailableError(
                f"The hub at {self.endpoint} cannot be reached: {str(error) or type(error).__name__}.",
                base_url=self.endpoint,
                operator_hint="Check the network, HF_ENDPOINT, and HTTPS_PROXY if you are behind a proxy.",
            ) from error
        except HFValidationError as error:
            raise InvalidRequestError(f"{ref} cannot be a repository: {error}", param="model") from error
        except OSError as error:
            if error.errno is not None:
                raise
            # The library's own message for a response that is too short or lacks a header.
            raise BackendUnavailableError(f"{self.endpoint}: {error}", base_url=self.endpoint) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise self._malformed(f"is not a hub's ({type(error).__name__}: {error})") from error

    def _near(self, ref: HubRef) -> tuple[list[str], str | None]:
        """Repositories with a name like this one's, none where the hub does not list them; and a hint with them."""
        from huggingface_hub import constants, get_session

        found: list[str] = []
        for query in ({"search": ref.repo}, {"author": ref.owner}):
            try:
                with self.mapped_errors(ref):  # not HfApi.list_models, which has no timeout
                    response = get_session().get(
                        f"{self.endpoint}/api/models",
                        params=query | {"filter": "gguf", "limit": "50"},
                        headers=self.headers(),
                        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                    )
                    found += [str(item["id"]) for item in response.json()] if response.is_success else []
            except MinerError:
                continue
        named = [name for name in dict.fromkeys(found) if re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
        near = difflib.get_close_matches(ref.repository, named, n=3, cutoff=0.4)
        return near, f"Did you mean {' or '.join(f'hf:{name}' for name in near)}?" if near else None

    def _refusal(self, error: HfHubHTTPError, ref: HubRef) -> MinerError:
        response = error.response
        status, kind = response.status_code, response.headers.get("X-Error-Code", "")
        reason = response.headers.get("X-Error-Message", "") or response.reason_phrase
        with_token = "authorization" in response.request.headers
        details: dict[str, Any] = {"base_url": self.endpoint, "status": status}
        if status == 404 or kind == "RepoNotFound":
            near, hint = self._near(ref)
            private = kind != "EntryNotFound" and not with_token
            return ModelNotFoundError(
                f"The hub at {self.endpoint} has no hf:{ref.repository}.",
                model=str(ref),
                available=[f"hf:{name}" for name in near],
                hint=hint or "Check the name.",
                operator_hint="If it is private, set HF_TOKEN." if private else None,
            )
        if status in (401, 403):
            hint = None
            if kind != "GatedRepo" and not with_token:  # without a token the hub does not distinguish the two
                hint = " ".join(filter(None, ("There may be no such repository.", self._near(ref)[1])))
            return AuthenticationError(
                f"The hub at {self.endpoint} denied access to hf:{ref.repository} ({status}: {reason}).",
                hint=hint,
                operator_hint="Set HF_TOKEN to a token that may read it, once you have accepted its terms at "
                f"{self.endpoint}/{ref.repository}. "
                + ("The one that is set was refused." if with_token else "None is set."),
                **details,
            )
        if status == 429:
            wait = response.headers.get("Retry-After", "")
            return BackendOverloadedError(
                f"Rate limit of the hub at {self.endpoint} exceeded.",
                retry_after=float(wait) if wait.isdecimal() else None,
                hint="Try again later.",
                operator_hint="With HF_TOKEN set, more requests are allowed.",
                **details,
            )
        message = f"The hub at {self.endpoint} failed on hf:{ref.repository} ({status}: {reason})."
        if status >= 500 or status == 408:
            return BackendUnavailableError(message, hint="Try again later.", **details)
        return BackendProtocolError(message, **details)

    def _malformed(self, what: str) -> BackendProtocolError:
        return BackendProtocolError(
            f"The response of {self.endpoint} {what}.",
            base_url=self.endpoint,
            operator_hint="Is HF_ENDPOINT the address of a hub?",
        )


def _prepare() -> None:
    """Import huggingface_hub, and set the options that it has no arguments for.

    Raises:
        ConfigError: it is not installed, or cannot use the proxies that the environment names.
    """
    try:
        import httpx2  # noqa: F401
        from huggingface_hub import constants, get_session
    except ImportError as error:
        raise ConfigError(
            f"Models are pulled with huggingface_hub, which cannot be imported: {error}.",
            operator_hint='Install it with: pip install "llm-service-backends[llamacpp]"',
        ) from error
    # Send nothing about this machine, its packages or the calling program.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    # Ten MiB at a time would be lost at each cut and each kill, and would make the bar stand still on a slow line.
    constants.DOWNLOAD_CHUNK_SIZE = BLOCK
    try:
        get_session()
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"The proxy that the environment names cannot be used: {error}",
            operator_hint='For SOCKS: pip install "httpx2[socks]". Others are http:// or https:// addresses.',
        ) from error


def _file(item: RepoSibling) -> HubFile:
    size = item.lfs.size if item.lfs else item.size
    digest = item.lfs.sha256 if item.lfs else ""
    known = SHA256.fullmatch(digest)
    return HubFile(item.rfilename, size if isinstance(size, int) and size > 0 else 0, digest if known else None)


def _is_safe(path: str) -> bool:
    """Whether this is the path of a GGUF file inside the repository's directory."""
    if not path.lower().endswith(SUFFIX) or len(path) > 500:
        return False
    parts = path.split("/")
    return all(part and not part.startswith(".") for part in parts) and not re.search(r"[\x00-\x1f\x7f\\:]", path)
