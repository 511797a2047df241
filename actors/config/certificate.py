"""The certificate of `server.tls`: contexts for the gateway, and for programs on this machine that ask it."""

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from actors.config.schema import Tls

_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME."""


def server_context(tls: Tls) -> ssl.SSLContext:
    """Load the certificate with its chain, and the key. Raises `ValueError`. Blocking."""
    for what, file in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            Path(str(file)).read_bytes()
        except OSError as error:
            raise ValueError(f"{what}: {file} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(str(tls.certificate), str(tls.key), _refuse_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{tls.key} is not the key of {tls.certificate}") from None
        raise ValueError(
            f"{tls.certificate} and {tls.key} are no certificate and key in PEM: {error}"
        ) from None
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """Return a context that trusts exactly this certificate. Raises `ValueError`. Blocking.

    Programs on this machine know the gateway by its certificate, which may be for another name, and may have
    expired.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        chain = Path(str(tls.certificate)).read_text(encoding="utf-8", errors="replace")
        context.load_verify_locations(cadata=_FIRST.findall(chain)[0])  # not its issuers, who have others too
    except (OSError, IndexError) as error:
        raise ValueError(f"{tls.certificate} cannot be used: {error}") from None
    return context


def expiry(tls: Tls) -> datetime:
    """Return when the certificate expires. Raises `ValueError` if the pair cannot be used. Blocking.

    Only a completed handshake tells it, so one is made in memory.
    """
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(tls).wrap_bio(to_server, to_client, server_side=True)
    client = client_context(tls).wrap_bio(to_client, to_server)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            raise ValueError(
                f"no TLS connection can be made with {tls.certificate}: {error.reason}"
            ) from None
    found = client.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), UTC)


def _refuse_passphrase() -> str:
    raise ValueError("the key has a passphrase, for which nobody can be asked: store it without one")
