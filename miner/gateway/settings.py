"""GatewaySettings: what `miner serve` can be told, besides what MinerConfig tells the backends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr

from miner.config.base import Settings
from miner.config.values import PathText, Seconds

__all__ = ["GatewaySettings", "LogLevel"]

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]


class GatewaySettings(Settings):
    """Settings of the gateway, from the same places as MinerConfig's: arguments, environment, `.env`, defaults.

    Raises:
        ConfigError: a value is wrong, or an argument is not a setting.
    """

    serve_host: str = Field("127.0.0.1", min_length=1)
    serve_port: int = Field(8088, ge=0, le=65535)
    """0: any free port."""

    api_keys: SecretStr | None = None
    """Keys that clients must send, with commas between; each of 16 characters or more."""
    api_keys_file: PathText | None = None
    """File of hashed keys, kept by `miner keys`; default: `miner/keys.json` in the user's config directory."""
    serve_allow_unauthenticated: bool = False
    """Serve a non-loopback address without keys."""
    serve_allowed_hosts: str = ""
    """Host names that a client may ask for besides this machine's own (localhost), with commas between; on an address
    that others can reach, empty: any."""
    serve_trusted_proxies: str = ""
    """Proxies whose X-Forwarded-For or Forwarded tells the client's address: addresses and networks, with commas."""
    serve_cors_origins: str = ""
    """Origins of web pages that may call, with commas between, `http://localhost:*` among them; `*`: any."""

    serve_any_model_name: bool = False
    """With MODEL_PATH: answer requests for a model of any other name with that one; otherwise they get a 404."""

    serve_max_body: int = Field(32 * 1024 * 1024, ge=1024)
    """Bytes of a request's body at most."""
    serve_body_budget: int = Field(128 * 1024 * 1024, ge=1024)
    """Bytes that the bodies of all running requests hold at most, not counted 64 KiB of each; beyond it: 503."""
    serve_body_timeout: Seconds = 30.0
    """Seconds within which a request's body must have come."""
    serve_write_timeout: Seconds = 60.0
    """Seconds that a client may leave an answer unread."""
    serve_keepalive: Seconds = 75.0
    """Seconds that an idle connection, or one that sends no whole head, stays open."""
    serve_heartbeat: Seconds = 15.0
    """Seconds of silence in a stream after which a comment is sent, so that nobody between takes it for dead."""

    serve_max_running: int | None = Field(None, ge=1)
    """Requests that the backend works on at once; default: what it says that it can."""
    serve_max_queued: int = Field(256, ge=0)
    """Requests that wait for their turn at most."""
    serve_queue_timeout: Seconds = 60.0
    """Seconds that a request waits for its turn at most."""
    rate_limit_requests: int | None = Field(None, ge=1)
    """Requests a minute, for each key or (without keys) address; default: any number."""
    rate_limit_tokens: int | None = Field(None, ge=1)
    """Tokens a minute, in and out together, for each key or address; max_tokens of what runs counts until it ends."""
    rate_limit_concurrency: int | None = Field(None, ge=1)
    """Requests at once, for each key or address; each reply (n) and each text to embed counts."""

    serve_admission_timeout: Seconds = 2.0
    """Seconds that each hook of `miner.admission` has to decide about a request."""

    serve_grace: float = Field(30.0, ge=0, allow_inf_nan=False)
    """Seconds that running requests get to finish when the server is told to stop."""
    serve_stall: Seconds = 300.0
    """Seconds without a token, while requests run, after which `/readyz` says no."""
    serve_preload: bool = True
    """Load the default model at start."""

    serve_metrics: Literal["admin", "key", "open"] = "admin"
    """Who may read /metrics: who has the admin right, whoever has a key, or anybody."""
    serve_log: Literal["text", "json", "off"] = "text"
    """Form of all lines of the server's log; off: text, and no line for each request."""
    log_level: LogLevel = "info"
    """The least that the server logs: debug, info, warning, error or critical. A request's line is an info."""
    serve_log_prompts: bool = False
    """Write prompts and replies to the log."""

    # Here and not only in the base: else type checkers make one whose arguments must have the fields' exact types.
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
