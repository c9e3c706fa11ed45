"""Trusted certificates: the system's, and those that the usual environment variables name."""

from __future__ import annotations

import os
import ssl

from miner.core.http.transport_errors import ConnectError

_OPENSSL = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Read by OpenSSL itself in place of the system's; a path that does not exist is ignored."""
_OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def ssl_context() -> ssl.SSLContext:
    """Return a context for connections to servers. Slow (it reads many certificates): not for the event loop.

    Raises:
        ConnectError: a variable names a file that holds no certificates.
    """
    context = ssl.create_default_context()
    for variable in _OTHERS:
        path = os.environ.get(variable)
        if not path:
            continue
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as error:  # an SSLError is one
            raise ConnectError(
                f"TLS failed: {variable}={path!r} cannot be read as certificates", retryable=False,
                hint=f"Unset {variable}, or name a PEM file.",
            ) from error  # fmt: skip
    return context


def certificate_hint() -> str:
    """What an operator can do about a certificate that is not trusted."""
    for variable in (*_OPENSSL, *_OTHERS):
        path = os.environ.get(variable)
        if path and not os.path.exists(path):
            return f"{variable}={path!r} does not exist."
    return "For a private certificate authority, set SSL_CERT_FILE to its PEM file."
