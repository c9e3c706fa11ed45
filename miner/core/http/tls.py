"""Which certificates are trusted: the system's, and those of the files that the usual variables name."""

from __future__ import annotations

import os
import ssl

from miner.core.http.transport_errors import ConnectError

__all__ = ["trusted", "untrusted_hint"]

_OPENSSL = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""OpenSSL reads these itself, in place of the system's; what is not there it passes over."""
_OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def trusted() -> ssl.SSLContext:
    """A context for connections to servers. Reads many certificates: not in the event loop.

    Raises:
        ConnectError: a variable names a file without certificates.
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
                f"no TLS: {variable}={path!r} cannot be read as certificates", retryable=False,
                hint=f"Unset {variable}, or name a PEM file.",
            ) from error  # fmt: skip
    return context


def untrusted_hint() -> str:
    """What to do about a certificate that nobody vouches for."""
    for variable in (*_OPENSSL, *_OTHERS):
        path = os.environ.get(variable)
        if path and not os.path.exists(path):
            return f"{variable}={path!r} names nothing that is there."
    return "Is it signed by an authority of your own? Name its PEM file in SSL_CERT_FILE."
