"""The built-in models: written whole or not at all, and known to be whole when they are used."""

import os
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.demo.corpus import ANSWERS, LOOP
from actors.demo.model import demo_path, is_whole_demo, write_demo
from actors.demo.weights import WINDOW
from tests.conftest import DEMO
from tests.gateway import Gateway, running


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    write_demo(path, embedding=False)
    return path


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 4096)


def without_digest(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncated, overwritten, without_digest, gone])
def test_what_is_not_whole_is_known(tmp_path: Path, written: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "demo.gguf"
    for file in written.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert is_whole_demo(path)
    damage(path)
    assert not is_whole_demo(path)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "demo.gguf"
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [tmp_path / f"demo.gguf.{dead.pid}.partial", tmp_path / f"demo.gguf.{dead.pid}.digest.partial"]
    others = tmp_path / f"demo.gguf.{os.getppid()}.partial"
    for file in (*left, others):
        file.write_bytes(b"half")
    write_demo(path, embedding=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, others.name, "demo.gguf.sha256"]
    assert path.read_bytes() == written.read_bytes()


def test_a_damaged_one_is_written_anew_when_it_is_asked_for(tmp_path: Path, real_server: None) -> None:
    path = demo_path("demo", tmp_path / "llama-smart-proxy")
    path.parent.mkdir()
    path.write_bytes(b"GGUF" + bytes(100_000))
    with running(
        {"llama_cpp": {"models": {"demo": DEMO}}}, tmp_path, XDG_CACHE_HOME=str(tmp_path)
    ) as gateway:
        assert gateway.chat().status_code == 200
        gateway.wait_for("the built-in model is damaged", path=str(path))
    assert is_whole_demo(path)


def test_who_asks_meanwhile_waits_for_the_one_that_is_written(tmp_path: Path, real_server: None) -> None:
    with (
        running({"llama_cpp": {"models": {"demo": DEMO}}}, tmp_path, XDG_CACHE_HOME=str(tmp_path)) as gateway,
        ThreadPoolExecutor() as pool,
    ):
        answers = [pool.submit(gateway.client.get, path) for path in ("/v1/models", "/admin/models")]
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert sum(line["event"] == "writing the built-in model" for line in gateway.log) == 1


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@pytest.mark.parametrize(("keywords", "answer"), [rest for _, *rest in ANSWERS])
def test_each_answer_is_given_to_the_letter(keywords: str, answer: str, shipped: Gateway) -> None:
    question = asked(f"Tell me: {keywords.partition(' ')[0]}")
    choice = shipped.chat(messages=question, max_tokens=150, logprobs=True, top_logprobs=2).json()["choices"][
        0
    ]
    said = choice["message"]["content"]
    once = answer.removeprefix(LOOP)
    assert said.startswith(f"{once} {once} Around" if answer.startswith(LOOP) else once)
    assert answer.startswith(LOOP) or said == once
    for token in choice["logprobs"]["content"]:
        first, second = (each["logprob"] for each in token["top_logprobs"])
        assert first - second > 10, f"{token} may be mistaken for another at a higher temperature"


def test_what_never_ends_goes_on_without_the_question(shipped: Gateway) -> None:
    told = shipped.chat(messages=asked("forever"), max_tokens=2 * WINDOW + 200, temperature=0).json()
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "length"
    (once,) = (answer.removeprefix(LOOP) for *_, answer in ANSWERS if answer.startswith(LOOP))
    said = choice["message"]["content"]
    assert f"{once} ".startswith(said.replace(f"{once} ", ""))


def test_each_slot_has_a_long_context(shipped: Gateway) -> None:
    reports = "".join(f"Report {number}: nothing of note happened here.\n" for number in range(700))
    told = shipped.chat(messages=asked(f"{reports}Tell me about docker"), max_tokens=5).json()
    assert told["usage"]["prompt_tokens"] > 8192
    assert told["choices"][0]["message"]["content"].startswith("Docker is one")
    (slot, *_) = shipped.client.get("/slots?model=demo").json()
    assert slot["n_ctx"] == 131072


def test_the_cache_does_not_grow_with_the_context(shipped: Gateway) -> None:
    assert shipped.chat().status_code == 200
    lines = [line["line"] for line in shipped.log if line["event"] == "server log"]
    (size,) = (match[1] for line in lines if (match := re.search(r"KV buffer size = +([0-9.]+) MiB", line)))
    assert float(size) < 4
