"""Keys: found by their secret, and what they may use."""

import pytest

from proxy.access.keys import Key, KeyRing, Rights, make_key

NOW = 1_800_000_000.0


def key(name: str, secret: str, **rights: object) -> Key:
    return make_key(name, secret, Rights(**rights))  # type: ignore[arg-type]


def test_a_key_is_found_by_its_secret_alone() -> None:
    ring = KeyRing([key("a", "secret-of-a-012345"), key("b", "secret-of-b-012345")])
    found = ring.find("secret-of-b-012345", NOW)
    assert found is not None
    assert found.name == "b"
    assert ring.find("b", NOW) is None
    assert ring.find("", NOW) is None
    assert ring.find(found.digest.hex(), NOW) is None, "the digest is no secret"


def test_the_secret_is_not_kept() -> None:
    assert "secret-of" not in repr(key("a", "secret-of-a-012345"))


def test_a_key_expires() -> None:
    ring = KeyRing([key("a", "secret-of-a-012345", expires=NOW)])
    assert ring.find("secret-of-a-012345", NOW - 1) is not None
    assert ring.find("secret-of-a-012345", NOW) is None


@pytest.mark.parametrize(
    ("globs", "names", "allowed"),
    [
        (("*",), ["anything"], True),
        (("qwen*",), ["qwen-32b"], True),
        (("qwen*",), ["Qwen-32B"], True),
        (("qwen*",), ["llama"], False),
        (("org/*:Q4_K_M",), ["Org/Model:q4_k_m"], True),
        (("small",), ["coder", "small"], True),
        ((), ["coder"], False),
        (("llama3",), ["llama3:latest"], True),
        (("llama3",), ["llama3:8b"], False),
        (("[a-b]*",), ["b1"], True),
    ],
)
def test_models_are_allowed_by_any_of_their_names(
    globs: tuple[str, ...], names: list[str], allowed: bool
) -> None:
    assert Rights(models=globs).may_use_model(names) is allowed
