"""Names of models on a hub, and the files they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model_names import (
    DEFAULT_ORDER,
    HubName,
    NoSuchVariantError,
    RepoFile,
    allowed,
    choices,
    choose,
    ollama_name,
    parse_name,
    tag_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unsloth/Qwen3-0.6B-GGUF", HubName("unsloth/Qwen3-0.6B-GGUF")),
        ("unsloth/Qwen3-0.6B-GGUF:Q4_K_M", HubName("unsloth/Qwen3-0.6B-GGUF", "Q4_K_M")),
        ("a/b:sub/file.gguf", HubName("a/b", "sub/file.gguf")),
        ("a/b:*q4*", HubName("a/b", "*q4*")),
        ("demo", None),
        ("demo:latest", None),
        ("a/b/c", None),
        ("a/b:", None),
        ("a/b:x:y", None),
        ("/etc/passwd", None),
        ("../b:x", None),
        ("a/..:x", None),
        ("a/b:../../x", None),
        ("a/b:/etc/passwd", None),
        ("a/b:..\\x", None),
        ("a/b:x\ny", None),
        ("a--b/c", None),
        ("a/b.git", None),
        (".a/b", None),
        ("a/" + "b" * 97, None),
    ],
)
def test_names(text: str, expected: HubName | None) -> None:
    assert parse_name(text) == expected
    if expected is not None:
        assert str(expected) == text


@given(st.text(max_size=60))
def test_no_name_leaves_the_cache(text: str) -> None:
    for candidate in (text, f"a/{text}", f"a/b:{text}"):
        if name := parse_name(candidate):
            assert name.repo.count("/") == 1
            assert ".." not in candidate
            assert not candidate.startswith(("/", "."))


@pytest.mark.parametrize(
    ("repo", "patterns", "expected"),
    [
        ("unsloth/Qwen3-GGUF", [], False),
        ("unsloth/Qwen3-GGUF", ["*"], True),
        ("Unsloth/Qwen3-GGUF", ["unsloth/*"], True),
        ("unsloth/Qwen3-GGUF", ["ggml-org/*", "*/qwen*"], True),
        ("evil/unsloth", ["unsloth/*"], False),
    ],
)
def test_policy(repo: str, patterns: list[str], expected: bool) -> None:
    assert allowed(repo, patterns) is expected


@pytest.mark.parametrize(
    ("path", "tag"),
    [
        ("Qwen3-0.6B-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b-chat.Q4_0.gguf", "Q4_0"),
        ("model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-iq3_xxs.gguf", "IQ3_XXS"),
        ("BF16/m-BF16-00001-of-00002.gguf", "BF16"),
        ("Q8_0/model-00001-of-00003.gguf", "Q8_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m-fp16.gguf", "F16"),
        ("m-Q6_K.gguf", "Q6_K"),
        ("m-Q6_K_L.gguf", "Q6_K_L"),
        ("plain.gguf", None),
        ("Q4me.gguf", None),
    ],
)
def test_tags(path: str, tag: str | None) -> None:
    assert tag_of(path) == tag


def files(*paths: str) -> list[RepoFile]:
    """Files of growing size."""
    return [RepoFile(path=path, size=100 + number) for number, path in enumerate(paths)]


REPO = files(
    "README.md",
    "m-Q2_K.gguf",
    "m-Q4_K_M.gguf",
    "m-UD-Q4_K_XL.gguf",
    "m-Q8_0.gguf",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
    "m-imatrix.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
)


@pytest.mark.parametrize(
    ("variant", "path"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("Q8_0", "m-Q8_0.gguf"),
        ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("M-Q2_K.gguf", "m-Q2_K.gguf"),
        ("m-q2_k", "m-Q2_K.gguf"),
        ("*Q2*", "m-Q2_K.gguf"),
        ("m-q?_0.gguf", "m-Q8_0.gguf"),
        ("BF16", "BF16/m-BF16-00001-of-00002.gguf"),
        ("bf16/m-bf16", "BF16/m-BF16-00001-of-00002.gguf"),
        ("BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00001-of-00002.gguf"),
    ],
)
def test_variants(variant: str | None, path: str) -> None:
    choice = choose(REPO, variant)
    assert choice.parts[0].path == path
    assert len(choice.parts) == (2 if "BF16" in path else 1)
    assert choice.projector is not None
    assert choice.projector.path == "mmproj-F16.gguf"
    assert choice.size == sum(file.size for file in choice.files)


def test_projectors() -> None:
    assert choose(REPO, projector="none").projector is None
    chosen = choose(REPO, projector="bf16").projector
    assert chosen is not None
    assert chosen.path == "mmproj-BF16.gguf"
    with pytest.raises(NoSuchVariantError, match="it has no projector 'Q1'; there are: BF16, F16"):
        choose(REPO, projector="Q1")
    assert choose(files("m.gguf")).projector is None
    nearer = choose(files("mmproj-F16.gguf", "a/m.gguf", "a/mmproj-BF16.gguf")).projector
    assert nearer is not None
    assert nearer.path == "a/mmproj-BF16.gguf"


@pytest.mark.parametrize(
    ("repo", "variant", "message"),
    [
        (files("README.md"), None, "the repository has no GGUF file"),
        (files("mmproj-F16.gguf"), None, "the repository has no GGUF file"),
        (REPO, "Q3_K_S", "it has no 'Q3_K_S'; there are: Q2_K, Q4_K_M, UD-Q4_K_XL, Q8_0, BF16"),
        (REPO, "mmproj-F16.gguf", "it has no 'mmproj-F16.gguf'"),
        (REPO, "README.md", "it has no 'README.md'"),
        (files("m-00001-of-00002.gguf"), None, "the part m-00002-of-00002.gguf is missing"),
        (files(*(f"m{number}.gguf" for number in range(40))), "x", " and 10 more"),
    ],
)
def test_what_is_not_there(repo: list[RepoFile], variant: str | None, message: str) -> None:
    with pytest.raises(NoSuchVariantError) as caught:
        choose(repo, variant)
    assert message in str(caught.value)


def test_the_default_follows_the_documented_order() -> None:
    repo = files(*(f"m-{tag}.gguf" for tag in reversed(DEFAULT_ORDER)), "m.gguf")
    for tag in DEFAULT_ORDER:
        assert choose(repo).parts[0].path == f"m-{tag}.gguf"
        repo = [file for file in repo if file.path != f"m-{tag}.gguf"]
    assert choose(repo).label == "m"


def test_all_the_choices() -> None:
    incomplete = [*REPO, RepoFile(path="x-00001-of-00002.gguf", size=1)]
    assert [choice.label for choice in choices(incomplete)] == [
        "Q2_K",
        "Q4_K_M",
        "UD-Q4_K_XL",
        "Q8_0",
        "BF16",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Tiny", "tiny:latest"),
        ("tiny:7B", "tiny:7b"),
        ("registry.ollama.ai/library/tiny", "tiny:latest"),
        ("hf.co/Org/Repo-GGUF:Q4_K_M", "hf.co/org/repo-gguf:q4_k_m"),
        ("host:5000/org/m", "host:5000/org/m:latest"),
    ],
)
def test_what_ollama_tells_models_apart_by(name: str, expected: str) -> None:
    assert ollama_name(name) == expected
