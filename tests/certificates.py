"""Certificates for gateways under test."""

from datetime import datetime, timedelta
from pathlib import Path

import trustme

from actors.config.schema import Tls


def write_pair(
    folder: Path, name: str = "", *, authority: trustme.CA | None = None, expires: datetime | None = None
) -> Tls:
    """Write a certificate for localhost, with its chain, and its key; return the setting."""
    begins = None if expires is None else expires - timedelta(days=1)
    issuer = authority or trustme.CA()
    issued = issuer.issue_cert("localhost", "127.0.0.1", not_before=begins, not_after=expires)
    certificate, key = folder / f"{name}cert.pem", folder / f"{name}key.pem"
    issued.private_key_pem.write_to_path(key)
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate, append=number > 0)
    return Tls(certificate=str(certificate), key=str(key))
