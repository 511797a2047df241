"""What must not be shown is not: by `check`, in errors, in what an agent was given."""

import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
import yaml

from actors.config.file import load_config, parse_config, read_config_file
from actors.config.masking import MASK, is_secret, looks_secret, mask_command, mask_text, masked
from actors.config.schema import Config, HubSettings, Secret
from tests.actors.config.files import faults


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "token",
        "api_key",
        "API-KEY",
        "--api-key",
        "apiKey",
        "PGPASSWORD",
        "DB_PASSWORD",
        "client_secret",
        "AWS_SECRET_ACCESS_KEY",
        "private_key",
        "Authorization",
        "MY_CREDENTIALS",
        "passphrase",
        "HUB_TOKENS",
        "DB_PASS",
        "OPENAI_KEY",
        "SMTP_PW",
        "GITHUB_PAT",
        "api_key_2",
        "pwd",
        "-hft",
        "X-Amz-Signature",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "HOME",
        "PORT",
        "max_tokens_file",
        "api_key_file",
        "key_size",
        "tokenizer",
        "keyboard",
        "author",
        "monkey",
        "parallel",
        "path",
        "secretary",
        "ssl-key-file",
        "repeat",
        "keepalive_interval",
        "PWD",
        "OLDPWD",
        "SSH_AUTH_SOCK",
        "MAX_TOKENS",
        "TOKEN_LIMIT",
        "compass",
    ],
)
def test_names_of_other_things(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@host/x", "http://***@host/x"),
        ("tcp://me@host, ftp://u:p@h", "tcp://***@host, ftp://***@h"),
        ("http://host/a@b", "http://host/a@b"),
        ("serve --api-key abc -x 1", "serve --api-key *** -x 1"),
        ("--hf-token=abc --threads 8", "--hf-token=*** --threads 8"),
        ("--api-key 'a b' x", "--api-key *** x"),
        ("--api-key-file /x", "--api-key-file /x"),
        ("env HF_TOKEN=abcd PWD=/x /opt/serve", "env HF_TOKEN=*** PWD=/x /opt/serve"),
        ("env HF_TOKEN='a b' MAX_TOKENS=5 x", "env HF_TOKEN=*** MAX_TOKENS=5 x"),
        ("env 'HF_TOKEN=a \"b c' x", "env 'HF_TOKEN=***' x"),
        ("https://hub/?token=a1&b=2&Signature=c%3D d", "https://hub/?token=***&b=2&Signature=*** d"),
        ("hf_abcd", MASK),
        ("a hf_abcd b", "a *** b"),
        ("abc", MASK),
        ("xabcx", "xabcx"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert mask_text(text, {"hf_abcd", "abc"}) == shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["env", "MY_PASSWORD=it's a b", "serve"], "env 'MY_PASSWORD=***' serve"),
        (["serve", "--api-key=a b", "--threads", "8"], "serve '--api-key=***' --threads 8"),
        (["serve", "--api-key", "it's a"], "serve --api-key ***"),
        (["serve", "-hft", "a", "--model", "a b"], "serve -hft *** --model 'a b'"),
    ],
)
def test_commands(words: list[str], shown: str) -> None:
    assert mask_command(words) == shown


def test_a_field_says_in_its_type_that_it_is_a_secret() -> None:
    class Later(msgspec.Struct):
        one: Secret
        two: Secret | None = None
        three: list[Secret] = []
        four: Annotated[str, msgspec.Meta(extra={"secret": True})] = ""
        five: dict[str, Secret] = {}
        six: str = "six"

    shown = masked(Later("a", "b", ["c"], "d", {"e": "f"}))
    assert shown == {
        "one": MASK,
        "two": MASK,
        "three": [MASK],
        "four": MASK,
        "five": {"e": MASK},
        "six": "six",
    }
    hub = {field.name: is_secret(field.type) for field in msgspec.structs.fields(HubSettings)}
    assert [name for name, secret in hub.items() if secret] == ["token"]


TEXT = """\
server_pool:
  arguments: [--api-key, sk-literal, --hf-token=hf-flag, --threads, "8", "${API_KEY}"]
  command: env SERVE_PASSWORD=pw-of-command serve --api-key sk-command
hub:
  token: hf-literal
  endpoint: https://me:pass-in-url@hub
llama_cpp:
  models:
    m:
      path: builtin:demo
      arguments: ["--header=X ${API_KEY}"]
      command: [env, "MY_KEY=key of words", serve, "-mu", "https://hub/?token=token-in-url"]
agents:
- guard: {deny: ["${MY_PASSWORD}"]}
"""
SECRETS = [
    "sk-literal",
    "hf-flag",
    "sk-command",
    "pw-of-command",
    "token-in-url",
    "key of words",
    "hf-literal",
    "pass-in-url",
    "from-environment",
    "word-of-pass",
]
ENVIRONMENT = {"API_KEY": "from-environment", "MY_PASSWORD": "word-of-pass"}


def test_what_is_shown_of_a_configuration_has_no_secret_and_all_else(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    settings = read_config_file(path, environment=ENVIRONMENT)
    assert settings.report() == []
    shown = yaml.safe_dump(settings.shown(settings.config))
    assert [secret for secret in SECRETS if secret in shown] == []
    again = parse_config(yaml.safe_load(shown), folder=tmp_path)
    assert (again.hub.token, again.hub.endpoint) == (MASK, "https://***@hub")
    assert again.server_pool.arguments[3:5] == ["--threads", "8"]


def test_what_is_shown_is_a_configuration_again(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server: {host: '$${X} $$ 12'}\nagents: {guard: {deny: ['a$${b}']}}\n")
    settings = read_config_file(path)
    path.write_text(yaml.safe_dump(settings.shown(settings.config)))
    assert load_config(path) == settings.config
    assert settings.config.server.host == "${X} $$ 12"


@pytest.mark.parametrize(
    "text",
    [
        "hub:\n  token: [word-of-pass]\n",
        "hub: {token: word-of-pass}\nhub: {token: word-of-pass}\n",
        "hub: {tokn: word-of-pass}\n",
        "hub: {token: {a: word-of-pass}}\n",
        "hub: {token: 123456789}\n",
        "server:\n  port: ${MY_PASSWORD}\n",
        "server:\n  port: x${MY_PASSWORD}\n",
        "server: {log: {level: '${MY_PASSWORD}'}}\n",
        "server_pool:\n  docker:\n    host: ${MY_PASSWORD}\n    network: a ${MY_PASSWORD}\n",
        "server_pool: {docker: {host: 'x://me:word-of-pass@host'}}\n",
        "ollama: {host: 'https://me:word-of-pass@host'}\n",
        "ollama: {daemons: {a: 'http://me:word-of-pass@host'}}\n",
        "llama_cpp: {models: {a: {repo: '${MY_PASSWORD}'}}}\n",
        "llama_cpp: {models: {a: {path: x, aliases: ['/${MY_PASSWORD}']}}}\n",
        "hub: {token: word-of-pass\n",
        "hub: {token: word-of-pass\t: [}\n",
        "hub: {token: !x word-of-pass}\n",
        "hub: {token: *word\n",
    ],
)
def test_no_error_tells_a_secret(text: str, tmp_path: Path) -> None:
    messages = faults(text, tmp_path, **ENVIRONMENT)
    assert messages
    assert not [line for line in messages if "word-of-pass" in line or "123456789" in line]


def test_the_defaults_have_none() -> None:
    shown: Any = masked(Config())
    assert shown == msgspec.to_builtins(Config())


@pytest.mark.parametrize("text", ["x", "-a", "a://", "--a ", "@", '--a "', "a=", "token='", "'pin="])
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    began = time.process_time()
    mask_text(text * (10**6 // len(text)), {"secret"})
    assert time.process_time() - began < 3
