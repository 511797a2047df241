"""GPUs that are pretended (tests/fake_nvml), with real servers behind them."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import fake_nvml, gpu_server, trial
from tests.conftest import Start
from tests.gateway import CHECKOUT, FOREVER, Gateway, Json, until

MIB = 1 << 20
ON_CPU: Json = {"path": "builtin:demo", "ctx_size": 4096, "parallel": 2, "arguments": ["--threads", "1"]}
SMALL: Json = {**ON_CPU, "command": gpu_server.COMMAND}
STAND_IN = [sys.executable, "-m", "tests.stand_in"]


class Machine:
    """Two GPUs with room for one small model each; `tell` changes what NVML says."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "nvml.json"
        self.facts: dict[str, Any] = {
            "gpus": [
                {"uuid": f"GPU-{name}", "name": "Pretended", "total": 780 * MIB} for name in ("left", "right")
            ],
            "driver": "1",
            "context": 400 * MIB,
        }
        self.environment = fake_nvml.write(self._path, **self.facts)

    @property
    def hangs(self) -> bool:
        """Whether a call of NVML does not return."""
        return self._path.with_suffix(".hangs").exists()

    def tell(self, **facts: Any) -> None:
        """From the next question on."""
        self.facts.update(facts)
        fake_nvml.write(self._path, **self.facts)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    for name, value in {**made.environment, "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


def plan_alone(*words: str, config: Path, cache: str) -> str:
    """What `run.py plan` says where no gateway runs."""
    argv = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(config), "--port", "0", "plan", *words]
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    return subprocess.run(argv, capture_output=True, text=True, check=True, env=environment).stdout


def gpus(gateway: Gateway) -> list[Json]:
    found: list[Json] = gateway.health()["gpus"]
    return found


def test_three_models_of_which_two_fit(start: Start, machine: Machine, real_server: None) -> None:
    config = trial.config()
    pool = {**config["server_pool"], "patience": 1.0, "min_residency": 0.2}
    gateway = start(config["llama_cpp"]["models"], server_pool=pool)
    results = trial.use(gateway, 8)
    assert {result["status"] for result in results} == {200}
    assert {result["model"] for result in results} == set(trial.MODELS)
    assert {result["place"] for result in results} == {"GPU 0", "GPU 1"}
    stops = [line for line in gateway.log if line["event"] == "model stops"]
    assert stops, "two of three fit"
    assert all(line["why"].startswith("room for ") or "drained" in line["why"] for line in stops)
    # Patience, a drain, and a load: how long the latter take on this machine is known.
    loads = [line["seconds"] for line in gateway.log if line["event"] == "model is ready"]
    answers = sorted(result["seconds"] for result in results)
    assert answers[-1] < 1.0 + 2 * (answers[len(answers) // 2] + max(loads)) + 4.0
    for gpu in gpus(gateway):
        assert len(gpu["reserved_memory"]) <= 1
        assert gpu["used_memory"] <= gpu["total_memory"]


def test_the_plan_is_what_happens(start: Start, machine: Machine, real_server: None, tmp_path: Path) -> None:
    gateway = start({"a": SMALL, "b": SMALL, "c": SMALL}, server_pool={"min_residency": 0})
    assert gateway.chat("a").headers["X-Model-Place"] == "GPU 0"
    before = gateway.health()["models"]
    planned = gateway.client.get("/admin/plan", params={"model": "b"}).json()
    assert (planned["action"], planned["placement"], planned["certainty"]) == ("start", "one GPU", "exact")
    (gpu,) = planned["gpus"]
    assert (gpu["index"], gpu["layers"]) == (1, 3)
    assert gpu["total"] == gpu["weights"] + gpu["kv"] + gpu["compute"] + gpu["output"] == gpu["set_aside"]
    assert {name: model["epoch"] for name, model in gateway.health()["models"].items()} == {
        name: model["epoch"] for name, model in before.items()
    }
    gateway.chat("b")
    told = gateway.wait_for("model starts", model="b")
    assert (told["place"], told["why"]) == ("GPU 1", planned["why"])
    assert told["set_aside"] == {gpu["uuid"]: gpu["set_aside"]}
    predicted = gateway.wait_for("server starts", model="b")["predicted"][gpu["uuid"]]
    assert predicted == {part: gpu[part] for part in ("weights", "kv", "compute", "output")}
    assert gateway.client.get("/admin/plan", params={"model": "b"}).json()["action"] == "runs"
    # The third needs the room of one of them: of that which loads again in less time.

    def crowded() -> Json:
        answer: Json = gateway.client.get("/admin/plan", params={"model": "c"}).json()
        return answer

    first = crowded()
    assert first["action"] in ("wait", "make room"), "at once, or when it is clear that it is idle"
    assert len(first["evicts"]) == 1
    until(lambda: crowded()["action"] == "make room", "both are idle")
    (victim,) = crowded()["evicts"]
    place = {"a": "GPU-left", "b": "GPU-right"}[victim["model"]]
    assert list(victim["frees"]) == [place] == [gpu["uuid"] for gpu in crowded()["gpus"]]
    # The command asks the gateway.
    config = tmp_path / "ask.yaml"
    port = int(gateway.url.rpartition(":")[2])
    config.write_text(json.dumps({"server": {"port": port}, "llama_cpp": {"models": {"c": SMALL}}}))
    answer = subprocess.run(
        [sys.executable, str(CHECKOUT / "run.py"), "--config", str(config), "plan", "c"],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert f"GPUs: as the gateway on port {port} sees them" in answer.stdout
    assert "(idle; reload " in answer.stdout
    assert "[####" in answer.stdout, "whoever is there now would be gone"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, None),
        ({"model": "nothing"}, 404, "model_not_found"),
        ({"model": "far"}, 409, "model_not_downloaded"),
        ({"model": "broken"}, 422, "model_unusable"),
    ],
)
def test_plans_that_cannot_be_made(
    query: Json, status: int, code: str | None, start: Start, machine: Machine
) -> None:
    models: Json = {"far": {"repo": "org/far"}, "broken": {"path": "/nowhere.gguf"}}
    gateway = start(models, hub={"offline": True})
    answer = gateway.client.get("/admin/plan", params=query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "Traceback" not in answer.text


def test_a_driver_that_goes_and_comes_back(start: Start, machine: Machine, real_server: None) -> None:
    gateway = start({"a": SMALL, "b": SMALL}, gpu={"monitoring_interval": 0.1})
    machine.tell(lost=[0])
    until(lambda: list(gateway.health()["gpus_lost"]) == ["0"], "one is lost")
    assert gateway.chat("a").headers["X-Model-Place"] == "GPU 1"
    machine.tell(lost=[], error="driver reload")
    until(lambda: "driver reload" in (gateway.health()["gpu_error"] or ""), "nobody answers")
    assert gateway.chat("b").headers["X-Model-Place"] == "host"
    start_line = gateway.wait_for("model starts", model="b")
    assert (start_line["place"], start_line["why"]) == ("host", "there is no GPU")
    assert gateway.chat("a").status_code == 200, "what runs goes on"


def test_a_driver_that_hangs_does_not_hold_up_the_end(start: Start, machine: Machine) -> None:
    gateway = start({"a": SMALL}, gpu={"monitoring_interval": 0.05})
    machine.tell(hangs=True)
    until(lambda: machine.hangs, "a call hangs")
    assert gateway.health()["models"]["a"]["state"] == "stopped", "it answers nevertheless"
    assert gateway.stop(timeout=10) == 0


def test_without_an_interval_it_looks_before_each_decision(
    start: Start, machine: Machine, real_server: None
) -> None:
    gateway = start({"a": SMALL, "b": SMALL}, gpu={"monitoring_interval": 0})
    assert len(gpus(gateway)) == 2
    machine.tell(gpus=[{**gpu, "foreign": 700 * MIB} for gpu in machine.facts["gpus"]])
    assert gateway.chat("a").headers["X-Model-Place"] == "host"
    machine.tell(gpus=[{**gpu, "foreign": 0} for gpu in machine.facts["gpus"]])
    assert gateway.client.get("/admin/plan", params={"model": "b"}).json()["placement"] == "one GPU"
    assert gateway.chat("b").headers["X-Model-Place"] == "GPU 0"


@pytest.mark.parametrize(
    ("gpu", "status", "code"),
    [({"on_no_gpu": "fail"}, 503, "no_gpu"), ({"cpu_fallback": False}, 503, "no_gpu"), ({}, 200, None)],
)
def test_without_a_gpu(
    gpu: Json, status: int, code: str | None, start: Start, machine: Machine, real_server: None
) -> None:
    machine.tell(gpus=[])
    gateway = start({"a": SMALL}, gpu=gpu)
    answer = gateway.chat("a")
    assert answer.status_code == status
    if code:
        assert answer.json()["error"]["code"] == code
        assert "there is no GPU" in answer.json()["error"]["message"]
    else:
        assert answer.headers["X-Model-Place"] == "host"


def test_a_request_waits_for_a_gpu(start: Start, machine: Machine, real_server: None) -> None:
    machine.tell(gpus=[])
    gateway = start({"a": SMALL}, gpu={"on_no_gpu": "queue", "monitoring_interval": 0.1})
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(gateway.chat("a")))
    waiting.start()
    until(lambda: gateway.model("a")["waiting"] == 1, "it waits")
    machine.tell(gpus=[{"uuid": "GPU-new", "name": "Pretended", "total": 780 * MIB}])
    waiting.join(20)
    assert (answers[0].status_code, answers[0].headers["X-Model-Place"]) == (200, "GPU 0")


def on_host(gateway: Gateway, model: str) -> None:
    """All who tell of its place say that it is the host, and its memory is counted there."""
    assert gateway.chat(model).headers["X-Model-Place"] == "host"
    status = gateway.model(model)
    assert (status["place"], status["placement"]["gpu_memory"]) == ("host", {})
    assert status["placement"]["host_memory"] > 60 * MIB
    assert all(not gpu["reserved_memory"] for gpu in gpus(gateway))


def test_a_server_without_cuda_is_on_the_host(
    start: Start, machine: Machine, real_server: None, tmp_path: Path, cache: str
) -> None:
    gateway = start({"a": ON_CPU, "b": {**ON_CPU, "ctx_size": 8192}})
    on_host(gateway, "a")
    told = gateway.wait_for("model starts", model="a")
    assert (told["place"], told["set_aside"]) == ("host", {})
    assert told["why"].startswith("its model server was built without support for the GPUs")
    on_host(gateway, "b")
    gateway.stop()
    answer = json.loads(plan_alone("a", "--json", config=tmp_path / "0" / "config.yaml", cache=cache))
    assert (answer["placement"], answer["gpus"]) == ("host", [])


def test_a_server_without_cuda_where_the_host_is_not_allowed(
    start: Start, machine: Machine, real_server: None
) -> None:
    gateway = start({"a": ON_CPU}, gpu={"on_no_gpu": "queue"})
    answer = gateway.chat("a")
    assert answer.status_code == 503, "no GPU will ever come that it can use"
    assert "built without support for the GPUs" in answer.json()["error"]["message"]


def test_its_log_tells_that_a_server_is_without_cuda(
    start: Start, machine: Machine, real_server: None
) -> None:
    # One that is too old to list its devices, so that it is believed to have CUDA.
    command = [*STAND_IN, "--do", "cannot-list", "--do", "no-gpu"]
    gateway = start({name: {**ON_CPU, "command": command} for name in "ab"})
    gateway.chat("a", stream=True)
    assert gateway.wait_for("model starts", model="a")["place"] == "GPU 0"
    told = gateway.wait_for("model server does not use its GPU", model="a")
    assert (told["place"], told["instead_of"]) == ("host", "GPU 0")
    assert gateway.chat("a", stream=True).headers["X-Model-Place"] == "host"
    status = gateway.model("a")
    assert (status["place"], status["placement"]["gpu_memory"]) == ("host", {})
    gateway.chat("b", stream=True)
    assert gateway.wait_for("model starts", model="b")["place"] == "host", "of one it is known of all"


def test_flags_that_collide_with_the_placement_are_refused(
    start: Start, machine: Machine, real_server: None
) -> None:
    ways = {"main": ["--main-gpu", "1"], "split": ["-ts=3,1"], "fine": ["--main-gpu", "0", "-sm", "none"]}
    gateway = start(
        {
            **{name: {**SMALL, "arguments": ["--threads", "1", *words]} for name, words in ways.items()},
            # Where nothing is placed there is nothing to collide with.
            "cpu": {**ON_CPU, "arguments": ["--threads", "1", "--main-gpu", "1"]},
        }
    )
    told = gateway.wait_for("model cannot be used", model="main")["reason"]
    assert "main" in told
    assert "--main-gpu 1 collides with the placement" in told
    assert "use devices: [1]" in told
    gateway.wait_for("model cannot be used", model="split")
    for name, advice in (("main", "devices: [1]"), ("split", "tensor_split: [3, 1] with devices: [0, 1]")):
        answer = gateway.chat(name)
        assert answer.status_code == 503
        assert f"model {name!r}" in answer.json()["error"]["message"]
        assert advice in answer.json()["error"]["message"]
    assert gateway.chat("fine").headers["X-Model-Place"] == "GPU 0"
    assert gateway.chat("cpu").headers["X-Model-Place"] == "host"


def test_others_memory_is_respected(start: Start, machine: Machine, real_server: None) -> None:
    machine.tell(gpus=[{**gpu, "foreign": 500 * MIB} for gpu in machine.facts["gpus"]])
    gateway = start({"a": SMALL}, gpu={"monitoring_interval": 0.1}, server_pool={"min_residency": 0})
    assert gateway.chat("a").headers["X-Model-Place"] == "host"
    assert [gpu["foreign_memory"] for gpu in gpus(gateway)] == [500 * MIB] * 2
    # When they leave, the model moves while it is idle; nobody has to restart anything, or to ask for it.
    machine.tell(gpus=[{**gpu, "foreign": 0} for gpu in machine.facts["gpus"]])
    assert gateway.wait_for("model stops")["why"].startswith("GPU 0 has room for it now")
    until(lambda: gateway.model("a")["state"] == "ready", "it is loaded again", 20)
    assert gateway.model("a")["place"] == "GPU 0"
    answer = gateway.chat("a")
    assert answer.headers["X-Model-Place"] == "GPU 0"
    assert [line["place"] for line in gateway.log if line["event"] == "model starts"] == ["host", "GPU 0"]


@pytest.mark.parametrize(("failures", "status"), [(1, 200), (2, 503)])
def test_out_of_memory_is_tried_once_more_with_what_was_learned(
    failures: int, status: int, start: Start, machine: Machine, tmp_path: Path
) -> None:
    big = [{"uuid": "GPU-big", "name": "Pretended", "total": 8000 * MIB}]
    machine.tell(gpus=big)
    count = tmp_path / "count"
    command = [*STAND_IN, "--oom-until", str(failures), "--oom-count", str(count)]
    gateway = start({"a": {**SMALL, "command": command}})
    answer = gateway.chat("a", stream=True)
    assert answer.status_code == status
    assert count.read_text() == "2", "never in a loop"
    first, second = [line["set_aside"]["GPU-big"] for line in gateway.log if line["event"] == "model starts"]
    assert second == first + 512 * MIB
    assert gateway.wait_for("model ran out of memory")["next_time_more"] == 512 * MIB
    if status == 503:
        assert "out of memory" in answer.json()["error"]["message"]


def test_what_was_learned_is_in_a_plan_without_a_gateway(
    start: Start, machine: Machine, tmp_path: Path, cache: str
) -> None:
    machine.tell(gpus=[{"uuid": "GPU-big", "name": "Pretended", "total": 8000 * MIB}])
    command = [*STAND_IN, "--oom-until", "1", "--oom-count", str(tmp_path / "count")]
    gateway = start({"a": {**SMALL, "command": command}})
    assert gateway.chat("a", stream=True).status_code == 200
    gateway.wait_for("memory of a load")
    (first, second) = [
        line["set_aside"]["GPU-big"] for line in gateway.log if line["event"] == "model starts"
    ]
    gateway.stop()
    config = tmp_path / "0" / "config.yaml"
    answer = json.loads(plan_alone("a", "--json", config=config, cache=cache))
    assert answer["source"] == "by NVML"
    assert answer["gpus"][0]["set_aside"] == second == first + 512 * MIB
    # Or more, of other tests that share the cache.
    assert answer["learned"]["by_loads"] == 0
    assert answer["learned"]["ran_out"] >= 512 * MIB
    assert answer["load_seconds"] is not None
    assert " MiB because memory ran out in this way" in plan_alone("a", config=config, cache=cache)


def test_waiting_streams_are_told_what_for(start: Start, machine: Machine, real_server: None) -> None:
    machine.tell(gpus=[{"uuid": "GPU-only", "name": "Pretended", "total": 780 * MIB}])
    pool = {"patience": 30, "min_residency": 0}
    gateway = start({"a": SMALL, "b": SMALL}, server=log_and(keepalive_interval=0.3), server_pool=pool)
    long = {"messages": FOREVER, "max_tokens": 1500, "ignore_eos": True}
    for model in ("b", "a"):  # on a busy machine, the reading of b's header could outlast a's answers
        gateway.chat(model, max_tokens=1)
    with ThreadPoolExecutor(12) as clients:
        # Its context is full after a second or two: so there are many more of them than it has slots.
        held = [clients.submit(gateway.chat, "a", **long) for _ in range(12)]
        until(lambda: gateway.model("a")["waiting"], "requests that wait for a slot")
        messages = [{"role": "user", "content": "hello"}]
        asked = {"model": "b", "messages": messages, "max_tokens": 4, "stream": True}
        with gateway.client.stream("POST", "/v1/chat/completions", json=asked) as waiting:
            comment = next(line for line in waiting.iter_lines() if "make room" in line)
    assert all(one.result().status_code == 200 for one in held)
    assert comment.startswith(": waiting for b: 'a' would have to make room, and will in ")
    assert "; place 1 in its queue, about " in comment


def log_and(**server: Any) -> Json:
    return {"log": {"level": "debug", "format": "json"}, **server}
