"""What is said of the configuration file: what `run.py check` says."""

from pathlib import Path

import pytest

from proxy.doctor.configuration import check_configuration
from tests.proxy.doctor.patients import patient, the_one


@pytest.mark.parametrize("serves", [False, True])
async def test_a_file_that_is_right(serves: bool, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("llama_cpp: {models: {m: {path: 'builtin:demo'}}}")
    finding = await the_one(check_configuration, patient(tmp_path, serves=serves))
    assert (finding.status, finding.found) == ("ok", f"{tmp_path}/config.yaml: 1 models, 0 agents")


async def test_a_finding_for_each_fault(tmp_path: Path) -> None:
    text = "server: {port: many}\nllama_cpp: {models: {m: {path: none.gguf}}}\nagents: [unknown]\n"
    (tmp_path / "config.yaml").write_text(text)
    lines = [one.found for one in await check_configuration(patient(tmp_path))]
    assert [line.split(": ")[1] for line in lines] == ["server.port", "llama_cpp.models.m", "agents.unknown"]
    assert [one.status for one in await check_configuration(patient(tmp_path))] == ["error"] * 3


async def test_agents_are_not_imported_into_a_gateway(tmp_path: Path) -> None:
    agent = tmp_path / "agents" / "mine"
    agent.mkdir(parents=True)
    (agent / "agent.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()")
    (tmp_path / "config.yaml").write_text("agent_folders: [agents]\nagents: [mine]\n")
    await check_configuration(patient(tmp_path, serves=True))
    assert not (tmp_path / "imported").exists()
    await check_configuration(patient(tmp_path))
    assert (tmp_path / "imported").exists()


async def test_no_file(tmp_path: Path) -> None:
    finding = await the_one(check_configuration, patient(tmp_path))
    assert finding.status == "error"
    assert "cannot be read" in finding.found
