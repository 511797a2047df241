"""The certificate of `server.tls`: pairs that can be used, and others."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from actors.config.certificate import client_context, expiry, server_context
from actors.config.schema import Tls
from tests.certificates import write_pair


def test_a_pair(tmp_path: Path) -> None:
    tls = write_pair(tmp_path)
    assert isinstance(server_context(tls), ssl.SSLContext)
    assert expiry(tls) > datetime.now(UTC)


def test_a_certificate_that_has_expired_is_still_known(tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    tls = write_pair(tmp_path, expires=past)
    assert abs(expiry(tls) - past) < timedelta(seconds=2)


def encrypt(key: Path) -> None:
    """Give a key a passphrase."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    protection = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, form, protection))


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        (None, "", r"certificate: .*/cert\.pem cannot be read: No such file"),
        ("", None, r"key: .*/key\.pem cannot be read: No such file"),
        ("no certificate", "", r"are no certificate and key in PEM"),
        ("", "no key", r"are no certificate and key in PEM"),
        ("", "with a passphrase", "the key has a passphrase"),
        ("other", "", r"key\.pem is not the key of .*cert\.pem"),
    ],
)
def test_a_pair_that_cannot_be_used(
    certificate: str | None, key: str | None, message: str, tmp_path: Path
) -> None:
    tls = write_pair(tmp_path)
    for file, text in ((tls.certificate, certificate), (tls.key, key)):
        path = Path(str(file))
        if text is None:
            path.unlink()
        elif text == "with a passphrase":
            encrypt(path)
        elif text == "other":
            path.write_bytes(trustme.CA().issue_cert("localhost").cert_chain_pems[0].bytes())
        elif text:
            path.write_text(text)
    with pytest.raises(ValueError, match=message):
        server_context(tls)


def test_no_certificate_to_trust(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for name in ("none", "empty"):
        with pytest.raises(ValueError, match="cannot be used"):
            client_context(Tls(certificate=str(tmp_path / name)))


def shakes_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    """Whether a client accepts a server."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(one, two), server.wrap_bio(two, one, server_side=True))
    for side in (*sides, *sides):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_a_program_on_this_machine_trusts_this_certificate_alone(tmp_path: Path) -> None:
    authority = trustme.CA().create_child_ca()
    tls, other = (write_pair(tmp_path, name, authority=authority) for name in ("a", "b"))
    assert shakes_hands(server_context(tls), client_context(tls))
    assert not shakes_hands(server_context(other), client_context(tls)), "of the same authority"
