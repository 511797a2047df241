"""What crosses mailboxes: the secret among it is not shown."""

import msgspec
import pytest

from actors.messages import ApiKey, BecameReady, ServerAddress


def test_a_key_is_compared_and_not_shown() -> None:
    endpoint = ServerAddress("127.0.0.1", 1, key=ApiKey("secret"))
    assert endpoint == ServerAddress("127.0.0.1", 1, key=ApiKey("secret"))
    assert hash(endpoint) == hash(ServerAddress("127.0.0.1", 1, key=ApiKey("secret")))
    assert endpoint != ServerAddress("127.0.0.1", 1, key=ApiKey("another"))
    message = BecameReady(model="m", epoch=1, endpoint=endpoint)
    assert "secret" not in f"{message} {message!r} {endpoint} {endpoint.key}"
    with pytest.raises(TypeError):
        msgspec.json.encode(message)
