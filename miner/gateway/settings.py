"""GatewaySettings: the settings of `miner serve`, besides those of the backends (MinerConfig)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from miner.config.base import PathText, Seconds, Settings
from miner.gateway.neutralize import client_lines_of

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]


def _client_lines(value: str) -> str:
    client_lines_of(value)
    return value


class GatewaySettings(Settings):
    """Settings of the gateway, from the same sources as MinerConfig.

    Raises:
        ConfigError: a value is invalid, or an argument is not a setting.
    """

    serve_host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on."""
    serve_port: int = Field(8088, ge=0, le=65535)
    """Port to listen on; 0: any free port."""

    api_keys: SecretStr | None = None
    """API keys of clients, comma-separated; each of at least 16 characters."""
    api_keys_file: PathText | None = None
    """File of hashed API keys, written by `miner keys`; default: `miner/keys.json` in the user's config directory."""
    serve_allow_unauthenticated: bool = False
    """Serve a non-loopback address without API keys."""
    serve_allowed_hosts: str = ""
    """Allowed Host names besides this machine's own (localhost), comma-separated; empty: any, on an address that others
    can reach."""
    serve_trusted_proxies: str = ""
    """Proxies whose X-Forwarded-For or Forwarded is trusted: addresses and networks, comma-separated."""
    serve_cors_origins: str = ""
    """Allowed origins of web pages, comma-separated, such as `http://localhost:*`; `*`: any."""

    serve_any_model_name: bool = False
    """With MODEL_PATH: serve requests for any other model name too; false: 404."""

    serve_unsupported: Literal["refuse", "default", "skip"] = "default"
    """What becomes of parameters that are not supported: refuse all, skip those that only add (default), or skip all.
    Skipped ones are listed in `x-miner-ignored-params`."""

    serve_max_body: int = Field(32 * 1024 * 1024, ge=1024)
    """Maximum bytes of a request body."""
    serve_body_budget: int = Field(128 * 1024 * 1024, ge=1024)
    """Maximum bytes of all request bodies in memory, without the first 64 KiB of each; beyond it: 503."""
    serve_body_timeout: Seconds = 30.0
    """Seconds within which a request body must arrive."""
    serve_write_timeout: Seconds = 60.0
    """Seconds for which a client may stop reading the response."""
    serve_keepalive: Seconds = 75.0
    """Seconds until an idle connection, or one with an incomplete request head, is closed."""
    serve_heartbeat: Seconds = 15.0
    """Seconds without data after which a stream gets a comment, so that no proxy closes it as idle."""

    serve_max_running: int | None = Field(None, ge=1)
    """Maximum concurrent requests to the backend; default: what it reports (llama.cpp queues by itself)."""
    serve_max_queued: int = Field(256, ge=0)
    """Maximum requests waiting for a backend without a queue of its own (llama.cpp: MINER_MAX_QUEUE)."""
    serve_queue_timeout: Seconds = 60.0
    """Maximum seconds that a request waits for such a backend (llama.cpp: MINER_QUEUE_TIMEOUT)."""
    rate_limit_requests: int | None = Field(None, ge=1)
    """Requests per minute and API key, or without keys per client address; default: unlimited."""
    rate_limit_tokens: int | None = Field(None, ge=1)
    """Input and output tokens per minute and API key or address; running requests count with their max_tokens."""
    rate_limit_concurrency: int | None = Field(None, ge=1)
    """Concurrent requests per API key or address; each choice (n) and each text to embed counts."""

    serve_store: bool = True
    """Store responses of /v1/responses, so that clients can continue, read and cancel them; false: `store: true` is
    answered with `store: false`."""
    serve_store_file: PathText | None = None
    """SQLite database of what is stored; default: `miner/store.db` in the user's state directory."""
    serve_responses_max_count: int = Field(10_000, ge=1)
    """Maximum stored responses; beyond it those go first that were not used for longest."""
    serve_responses_max_bytes: int = Field(256 * 1024 * 1024, ge=1024)
    """Maximum bytes of all stored responses together."""
    serve_responses_max_age: Seconds = 30 * 86400.0
    """Seconds for which a stored response that is not used is kept."""

    serve_batch_max_bytes: int = Field(1024 * 1024 * 1024, ge=1024)
    """Maximum bytes of the files and batches of all clients together."""
    serve_batch_max_age: Seconds = 30 * 86400.0
    """Seconds for which files, and batches that have ended, are kept."""
    serve_batch_concurrency: int | None = Field(None, ge=1, le=256)
    """Rows of batches that run at once; default: one less than the slots of their backend, 32 at most."""

    serve_admission_timeout: Seconds = 2.0
    """Timeout in seconds of each hook of `miner.admission`."""

    serve_grace: float = Field(30.0, ge=0, allow_inf_nan=False)
    """Seconds for running requests to finish at shutdown."""
    serve_stall: Seconds = 300.0
    """Seconds without a token, while requests run, after which `/readyz` reports not ready."""
    serve_preload: bool = True
    """Load the default model at start."""

    serve_neutralize: Annotated[str, AfterValidator(_client_lines)] = "all"
    """Lines of clients in system prompts that are not for the model and change with every request, to be removed and
    listed in x-miner-ignored-params: all, none, or names, comma-separated (x-anthropic-billing-header: Claude Code)."""

    serve_metrics: Literal["admin", "key", "open"] = "admin"
    """Who may read /metrics: keys with the admin right, any key, or anyone."""
    serve_log: Literal["text", "json", "off"] = "text"
    """Format of the log; off: text without the access log."""
    log_level: LogLevel = "info"
    """Minimum level of the log: debug, info, warning, error or critical. The access log is at info."""
    serve_log_prompts: bool = False
    """Log prompts and responses."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
