"""The walk-through of docs/agents.md, as it stands there."""

import asyncio
import re
from pathlib import Path
from typing import Any

import yaml

from actors.config.file import parse_config
from agents.host.discovery import load_agents
from tests.gateway import CHECKOUT


def test_ten_minutes(tmp_path: Path) -> None:
    text = (CHECKOUT / "docs" / "agents.md").read_text()
    section = text.partition("## Your own, in ten minutes")[2].partition("\n## ")[0]
    blocks = dict(re.findall(r"(\d)\. .*?```\w+\n(.*?)```", section, re.DOTALL))
    (tmp_path / "my-agents" / "shout").mkdir(parents=True)
    (tmp_path / "my-agents" / "shout" / "agent.py").write_text(blocks["1"])
    (agent,), _ = load_agents(parse_config(yaml.safe_load(blocks["2"]), folder=tmp_path))
    assert (agent.name, agent.kind.description) == ("shout", "Makes the answer loud")
    names: dict[str, Any] = {"Shout": agent.kind}
    exec(blocks["4"], names)
    asyncio.run(names["test_it_is_loud"](tmp_path))
