"""Open WebUI in a browser: a conversation, and one with a tool. Chromium must be on the PATH."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright
from steps import EMBEDDER, GATEWAY, MODEL, WEATHER, folder_of_its_own, run, step

FOLDER = folder_of_its_own("open-webui")
TOOL = '''
class Tools:
    def get_weather(self, city: str) -> str:
        """Get the weather of a city.

        :param city: the name of the city
        """
        return "21 degrees in " + city
'''
SETTINGS = {
    "DATA_DIR": str(FOLDER),
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "none",
    "OFFLINE_MODE": "true",  # or it fetches its models from a hub
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "OPENAI_API_BASE_URL": f"{GATEWAY}/v1",
    "OPENAI_API_KEY": "none",
    "OLLAMA_BASE_URL": GATEWAY,
    "RAG_EMBEDDING_ENGINE": "ollama",
    "RAG_OLLAMA_BASE_URL": GATEWAY,
    "RAG_EMBEDDING_MODEL": EMBEDDER,
}


def ask(method: str, url: str, body: object = None, token: str = "") -> dict:
    """An answer of Open WebUI's own API."""
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def listed(model: str) -> str:
    """A model as `/v1/models` names it: those of Ollama with a tag."""
    names = [entry["id"] for entry in ask("GET", f"{GATEWAY}/v1/models")["data"]]
    return model if model in names else f"{model}:latest"


@contextmanager
def serving() -> Iterator[str]:
    """Its address, while the block lasts; it has a user without a password, and a tool."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        Path(sys.executable).parent / "open-webui",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with subprocess.Popen(
        command, env={**os.environ, **SETTINGS}, cwd=FOLDER, stdout=sys.stderr, stderr=sys.stderr
    ) as process:
        try:
            _wait_until_up(process, f"{url}/health")
            user = ask("POST", f"{url}/api/v1/auths/signin", {"email": "", "password": ""})
            token = user["token"]
            tool = {"id": "weather", "name": "Weather", "meta": {"description": "weather"}, "content": TOOL}
            ask("POST", f"{url}/api/v1/tools/create", tool, token)
            version = ask("GET", f"{url}/api/version")["version"]  # or it shows what is new in it
            # By itself it writes tools into the prompt, for models that know no tools.
            settings = {"ui": {"version": version, "params": {"function_calling": "native"}}}
            ask("POST", f"{url}/api/v1/users/user/settings/update", settings, token)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)


def _wait_until_up(process: subprocess.Popen, url: str) -> None:
    deadline = time.monotonic() + 240
    while True:
        assert process.poll() is None, "Open WebUI ended"
        try:
            ask("GET", url)
            return
        except OSError:
            assert time.monotonic() < deadline, "Open WebUI does not answer"
            time.sleep(0.5)


@contextmanager
def chatting(url: str, model: str, text: str, **more: str) -> Iterator[Page]:
    """The page of a new chat, in which this has been sent."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        try:
            page.goto(f"{url}/?{urlencode({'models': model, **more})}")
            page.locator("#chat-input").fill(text)
            page.locator("#send-message-button").click()
            yield page
        finally:
            print(page.inner_text("body")[-2000:], file=sys.stderr)
            browser.close()


def answers(page: Page, number: int = 1) -> str:
    """What the model said, when it has said it."""
    said = page.locator(".chat-assistant").nth(number - 1)
    said.wait_for()
    said.filter(has_text=re.compile(r"\w")).wait_for()
    page.locator(".regenerate-response-button").last.wait_for(state="attached")
    return said.inner_text()


def conversation(url: str, model: str) -> None:
    """Two questions and their answers."""
    with chatting(url, model, "hello") as page:
        assert answers(page)
        page.locator("#chat-input").fill("hello")
        page.locator("#send-message-button").click()
        assert answers(page, 2)


with serving() as address:

    @step("conversation")
    def by_openai() -> None:
        conversation(address, listed(MODEL))

    @step("conversation by Ollama's API")
    def by_ollama() -> None:
        conversation(address, f"{MODEL}:latest")

    @step("a tool")
    def tool() -> None:
        with chatting(address, listed(MODEL), WEATHER, **{"tool-ids": "weather"}) as page:
            said = answers(page)
            assert "get_weather" in said or "21 degrees" in said or "mild in Paris" in said, said

    run()
