"""The web page in a real Chromium: on a real gateway, and on a pretended machine with two GPUs."""

import base64
import csv
import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from tests.conftest import missing
from tests.gateway import Gateway, running, until
from tests.stand_in_admin import StandIn
from tests.stand_in_machine import HOSTILE, activity, model

PHONE, DESK = (390, 844), (1280, 860)
FULL = {
    "now": ".card.model",
    "chat": ".welcome",
    "models": "body",  # a telephone shows the list first
    "activity": ".row",
    "logs": ".row",
    "keys": ".meter",
    "settings": ".checks li",
}
"""The views, and what each has once it shows what it is for."""
VIEWS = tuple(FULL)
PATIENCE = 30_000
"""Milliseconds for what a busy machine must still do."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("chromium is not on the PATH; apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # As root, and in containers, Chromium cannot make its sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    # With their own long context, in which "forever" is long enough to be cancelled.
    names = ("demo", "demo-reasoning", "demo-embed")
    models = {name: {"path": f"builtin:{name}", "arguments": ["--threads", "1"]} for name in names}
    config = {"llama_cpp": {"models": models}, "server_pool": {"size": 4}}
    with running(config, tmp_path_factory.mktemp("page"), XDG_CACHE_HOME=cache) as shared:
        yield shared


@pytest.fixture(scope="module")
def pretended() -> Iterator[StandIn]:
    stand_in = StandIn().start()
    yield stand_in
    stand_in.stop()


@pytest.fixture(autouse=True)
def as_before(request: pytest.FixtureRequest) -> None:
    if "pretended" in request.fixturenames:
        request.getfixturevalue("pretended").reset()


@contextmanager
def opened(
    browser: Browser, url: str, size: tuple[int, int] = DESK, *, scheme: Any = "light", may_fail: bool = False
) -> Iterator[Page]:
    """A page. Whatever its console says of errors is a fault, unless requests of it are meant to fail."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    try:
        page.goto(url)
        yield page
        assert [fault for fault in faults if not (may_fail and "Failed to load resource" in fault)] == []
    finally:
        context.close()


def goes_sideways(page: Page) -> bool:
    """Whether something is wider than the window."""
    wide: bool = page.evaluate(
        "document.querySelector('main').scrollWidth > document.querySelector('main').clientWidth"
    )
    return wide


# On a real gateway


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_from_nothing_to_a_streamed_answer(gateway: Gateway, browser: Browser, size: tuple[int, int]) -> None:
    with opened(browser, gateway.url, size) as page:
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        page.get_by_role("link", name="Chat", exact=True).click()
        page.get_by_role("combobox", name="Model").select_option("demo")
        page.get_by_label("Message").fill("What about docker?")
        page.get_by_role("button", name="Send").click()
        answer = page.locator(".turn.assistant")
        expect(answer).to_contain_text("container")
        expect(answer).to_contain_text("tokens/s")
        page.get_by_role("link", name="Now").click()
        expect(page.locator(".card.model", has_text="demo")).to_contain_text("ready")
        assert not goes_sideways(page)


def test_a_thought_is_folded(gateway: Gateway, browser: Browser) -> None:
    with opened(browser, f"{gateway.url}/ui#chat/demo-reasoning") as page:
        page.get_by_role("button", name="What about docker?").click()
        thought = page.locator("details.thought")
        expect(thought).to_be_visible()
        assert thought.get_attribute("open") is None


TOOLS = """[{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]"""


def test_a_call_of_a_tool_is_shown(gateway: Gateway, browser: Browser) -> None:
    with opened(browser, f"{gateway.url}/ui#chat/demo") as page:
        expect(page.get_by_role("combobox", name="Model")).to_have_value("demo")
        page.get_by_role("button", name="Options").click()
        page.get_by_label("Tools").fill(TOOLS)
        page.get_by_role("button", name="Done").click()
        page.get_by_label("Message").fill("What is the weather in Paris?")
        page.get_by_label("Message").press("Enter")
        expect(page.locator(".call")).to_contain_text("calls get_weather")
        expect(page.locator(".call")).to_contain_text('"city": "Paris"')


def test_stop_and_cancel(gateway: Gateway, browser: Browser) -> None:
    # The browser tells the operator's 403 too.
    with opened(browser, f"{gateway.url}/ui#chat/demo", may_fail=True) as page:
        page.get_by_role("button", name="forever").click()
        expect(page.locator(".turn.assistant .text")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".turn.assistant .facts")).to_contain_text("stopped")
        until(lambda: gateway.model("demo")["busy"] == 0, "the slot is free")
        page.get_by_role("link", name="Now").click()
        expect(page.get_by_text("No request runs.")).to_be_visible()

        page.get_by_role("link", name="Chat", exact=True).click()
        page.get_by_label("Message").fill("forever")
        page.get_by_label("Message").press("Enter")
        page.get_by_role("link", name="Now").click()
        page.get_by_role("button", name="Cancel the request to demo").click()
        page.get_by_role("link", name="Chat", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("operator")
        until(lambda: gateway.model("demo")["busy"] == 0, "the slot is free")


def test_load_and_unload(gateway: Gateway, browser: Browser) -> None:
    with opened(browser, f"{gateway.url}/ui#models/demo-embed") as page:
        page.get_by_role("button", name="Load", exact=True).click()
        page.get_by_role("button", name="Unload", exact=True).click()
        expect(page.get_by_role("button", name="Load", exact=True)).to_be_enabled()
        until(lambda: gateway.model("demo-embed")["state"] == "stopped", "it is unloaded")


def test_the_planner_answers_before_anything_is_loaded(gateway: Gateway, browser: Browser) -> None:
    gateway.chat()  # so that its file is there
    with opened(browser, f"{gateway.url}/ui#models/demo") as page:
        planner = page.locator("model-planner")
        expect(planner.locator(".verdict")).to_be_visible()
        cache = planner.locator(".legend li", has_text="cache of the context").locator("b")
        before = cache.inner_text()
        planner.get_by_role("slider", name="Context").press("Home")
        expect(planner.get_by_text("Context 512,")).to_be_visible()
        slots = planner.get_by_role("slider", name=re.compile("^Slots"))
        expect(slots).to_have_value("1")  # as configured
        slots.press("ArrowRight")
        planner.get_by_role("slider", name="Context").press("End")
        expect(planner.get_by_text("Context 262,144,")).to_be_visible()
        planner.get_by_role("slider", name="Context").press("Home")
        expect(cache).not_to_have_text(before)
        assert gateway.model("demo")["epoch"] == 1


def test_an_open_page_neither_loads_a_model_nor_keeps_one(gateway: Gateway, browser: Browser) -> None:
    before = gateway.model("demo-embed")
    with opened(browser, gateway.url, may_fail=True) as page:
        for view in VIEWS:
            page.goto(f"{gateway.url}/ui#{view}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert gateway.model("demo-embed") == before


# On a pretended machine


def test_a_cut_stream_heals(pretended: StandIn, browser: Browser) -> None:
    with opened(browser, f"{pretended.url}/ui", may_fail=True) as page:
        expect(page.locator(".connection")).to_have_text("Live")
        pretended.push("waiting", [])
        expect(page.get_by_text("Nobody waits.")).to_be_visible()
        pretended.is_cut = True
        pretended.cut()
        expect(page.locator(".connection")).to_have_text("Reconnecting")
        expect(page.get_by_text("What you see is from before")).to_be_visible()
        pretended.is_cut = False
        expect(page.locator(".connection")).to_have_text("Live")
        until(lambda: pretended.cursors[-1] is not None, "it continues after what it has")
        pretended.push("model", model("late", "ready", slots=4))
        expect(page.locator(".card.model", has_text="late")).to_be_visible()


@pytest.mark.parametrize("view", ["now", "models", "chat"])
def test_what_is_not_known_yet_is_not_said_to_be_nothing(
    pretended: StandIn, browser: Browser, view: str
) -> None:
    pretended.hold()
    with opened(browser, f"{pretended.url}/ui#{view}") as page:
        until(lambda: len(pretended.cursors) == 1, "the stream of events is open")
        expect(page.get_by_text("Asking the gateway")).to_be_visible()
        expect(page.locator(".connection")).to_have_text("Connecting")
        pretended.release()
        expect(page.locator("main").get_by_text("qwen3-32b").first).to_be_attached()
        expect(page.locator(".connection")).to_have_text("Live")


@pytest.mark.parametrize("view", ["chat", "activity", "logs", "settings"])
def test_a_view_heals_when_the_gateway_is_back(pretended: StandIn, browser: Browser, view: str) -> None:
    with opened(browser, f"{pretended.url}/ui", may_fail=True) as page:
        expect(page.locator(".connection")).to_have_text("Live")
        pretended.is_away = True
        pretended.cut()
        expect(page.locator(".connection")).to_have_text("Reconnecting")
        page.goto(f"{pretended.url}/ui#{view}")
        expect(page.get_by_role("alert").first).to_contain_text("The gateway does not answer")
        pretended.is_away = False
        expect(page.locator(".connection")).to_have_text("Live")
        expect(page.get_by_role("alert")).to_have_count(0)


def test_two_pages_show_the_same(pretended: StandIn, browser: Browser) -> None:
    with (
        opened(browser, f"{pretended.url}/ui#models/embed") as one,
        opened(browser, f"{pretended.url}/ui") as two,
    ):
        one.get_by_role("button", name="Load", exact=True).click()
        expect(two.locator(".card.model", has_text="embed")).to_contain_text("ready")
        two.get_by_role("button", name="Unload embed").click()
        expect(one.get_by_role("button", name="Load", exact=True)).to_be_visible()
        two.get_by_role("button", name="Cancel the waiting request to mistral-small").click()
        until(lambda: "DELETE /admin/requests/w1" in pretended.asked, "the cancellation")


def test_a_model_of_the_hub_is_predicted_before_it_is_fetched(pretended: StandIn, browser: Browser) -> None:
    with opened(browser, f"{pretended.url}/ui#models/+") as page:
        page.get_by_role("searchbox", name="Search the hub").fill("qwen")
        page.get_by_role("searchbox", name="Search the hub").press("Enter")
        page.get_by_role("button", name="Files of unsloth/Qwen3-4B-GGUF").click()
        expect(page.get_by_role("row", name="Q8_0")).to_contain_text("about 5.40 GiB")
        assert Axe().run(page).violations_count == 0
        page.get_by_role("button", name="Download unsloth/Qwen3-4B-GGUF:Q4_K_M").click()
        until(lambda: "POST /admin/hub/pull" in pretended.asked, "the download")
        fetched = {"bytes": 1 << 30, "total_bytes": 2 << 30, "bytes_per_second": None, "seconds_left": None}
        pretended.push("downloads", [{"name": "unsloth/Qwen3-4B-GGUF:Q4_K_M", "error": None, **fetched}])
        page.get_by_role("link", name="Now").click()
        expect(page.get_by_text("1.00 GiB of 2.00 GiB")).to_be_visible()


def test_ten_thousand_rows(pretended: StandIn, browser: Browser) -> None:
    pretended.rows = activity(10_000)
    with opened(browser, f"{pretended.url}/ui#activity") as page:
        rows = page.get_by_role("table", name="Requests that have ended")
        expect(rows.get_by_role("row").nth(5)).to_be_visible()
        most = page.evaluate(SCROLL)
        expect(page.get_by_text("10,000 requests", exact=True)).to_be_visible()
        assert most < 150  # rows that are there at a time, however many there are
        expect(rows).to_have_attribute("aria-rowcount", "10001")
        pretended.push("request_ended", {**activity(1)[0], "id": "new", "key": "newest"})
        page.evaluate("document.querySelector('long-list').scrollTop = 0")
        expect(rows.get_by_role("row").nth(1)).to_contain_text("newest")
        page.get_by_label("Outcome").select_option("failed")
        expect(page.get_by_text("10,000 requests", exact=True)).not_to_be_visible()


SCROLL = """async () => {
  const list = document.querySelector("long-list");
  const frame = () => new Promise(requestAnimationFrame);
  let most = 0;
  const isAll = () => document.querySelector("main").textContent.includes("10,000 requests");
  for (let before = -1; !isAll() || list.scrollTop !== before; ) {
    before = list.scrollTop;
    list.scrollTop += 2000;
    await frame();
    most = Math.max(most, list.querySelectorAll(".row").length);
  }
  return most;
}"""


def test_hostile_words_stay_words(pretended: StandIn, browser: Browser) -> None:
    for one in [*pretended.state["models"], *pretended.state["requests"], *pretended.state["waiting"]]:
        one.update({name: HOSTILE for name in ("key", "place", "reason", "error", "phase") if name in one})
    pretended.state["models"].append(model(HOSTILE, "ready", description=HOSTILE, aliases=[HOSTILE]))
    pretended.rows = [{**row, "key": HOSTILE, "model": HOSTILE, "outcome": HOSTILE} for row in activity(5)]
    pretended.lines = [{"timestamp": HOSTILE, "level": "error", "event": HOSTILE}]
    with opened(browser, f"{pretended.url}/ui") as page:
        for view in VIEWS:
            page.goto(f"{pretended.url}/ui#{view}")
            shown = page.locator("main option, main p, main span, main h3, main b").filter(has_text="onerror")
            if view in ("now", "chat", "models", "activity", "logs"):
                expect(shown.first).to_be_attached()
            if view == "activity":
                page.get_by_role("button", name="Details").first.click()
                expect(page.get_by_label("Capture", exact=True)).to_contain_text("onerror")
        page.goto(f"{pretended.url}/ui#chat/embed")
        page.get_by_label("Message").fill(f"{HOSTILE} ```{HOSTILE}``` **{HOSTILE}**")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".turn.assistant .text")).to_contain_text("onerror")
        assert page.evaluate("window.pwned") is None
        assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("name", ["%", "a%2Fb", "a#b?c", "__proto__", "long " + "x" * 500])
def test_odd_names_have_an_address(pretended: StandIn, browser: Browser, name: str) -> None:
    pretended.state["models"].append(model(name, "ready", description="y" * 500, aliases=["z" * 500]))
    for size in (PHONE, DESK):
        with opened(browser, f"{pretended.url}/ui#models/%E0", size) as page:
            page.locator("ul.list").get_by_role("link", name=name).click()
            expect(page.get_by_role("heading", level=2, name=name, exact=True)).to_be_visible()
            assert not goes_sideways(page)
            page.get_by_role("link", name="Logs", exact=True).last.click()
            expect(page.get_by_role("combobox", name="Of")).to_have_value(name)
            page.goto(f"{pretended.url}/ui#chat/%E0")
            expect(page.get_by_role("combobox", name="Model")).to_have_value("qwen3-32b")


@pytest.mark.parametrize("view", VIEWS)
def test_everybody_can_use_it(pretended: StandIn, browser: Browser, view: str) -> None:
    for size, scheme in ((DESK, "light"), (PHONE, "dark")):
        with opened(browser, f"{pretended.url}/ui#{view}", size, scheme=scheme) as page:
            expect(page.locator(".connection")).to_have_text("Live")
            expect(page.locator(FULL[view]).first).to_be_visible()
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert not goes_sideways(page)


CUT_ANYWHERE = """async () => {
  const base = document.querySelector("script").src;
  const { events } = await import(new URL("gateway.js", base));
  const text = ': hi\\r\\nid: 7\\revent: model\\ndata: {"ü":\\ndata: "€😀"}\\n\\ndata:x\\r\\n\\r\\ndata: cut';
  const bytes = new TextEncoder().encode(text);
  const told = new Set();
  for (let first = 1; first < bytes.length; first += 1) {
    for (const second of [first, first + 1, first + 2, bytes.length]) {
      const pieces = [bytes.slice(0, first), bytes.slice(first, second), bytes.slice(second)];
      const body = new ReadableStream({
        start(stream) {
          for (const piece of pieces) stream.enqueue(piece);
          stream.close();
        },
      });
      const found = [];
      for await (const event of events(new Response(body))) found.push(event);
      told.add(JSON.stringify(found));
    }
  }
  return [...told].map((one) => JSON.parse(one));
}"""


def test_a_stream_is_read_the_same_however_it_is_cut(pretended: StandIn, browser: Browser) -> None:
    with opened(browser, f"{pretended.url}/ui") as page:
        told = page.evaluate(CUT_ANYWHERE)
    assert told == [
        [
            {"type": ":", "data": "hi", "id": ""},
            {"type": "model", "data": '{"ü":\n"€😀"}', "id": "7"},
            {"type": "message", "data": "x", "id": "7"},
        ]
    ]


def test_a_spreadsheet_runs_nothing(pretended: StandIn, browser: Browser) -> None:
    pretended.rows = [{**activity(1)[0], "key": '=cmd|"x"!A0', "model": "a,b\n"}]
    with opened(browser, f"{pretended.url}/ui#activity") as page:
        with page.expect_download() as download:
            page.get_by_role("button", name="Export CSV").click()
        text = download.value.path().read_text()
    head, row = list(csv.reader(io.StringIO(text)))
    assert dict(zip(head, row, strict=True))["key"] == """'=cmd|"x"!A0"""
    assert dict(zip(head, row, strict=True))["model"] == "a,b\n"


def test_an_image_goes_to_a_model_that_takes_it(pretended: StandIn, browser: Browser) -> None:
    dot = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAkQBADs=")
    with opened(browser, f"{pretended.url}/ui#chat/embed") as page:
        expect(page.get_by_role("combobox", name="Model")).to_have_value("qwen3-32b")
        assert page.locator("input[type=file]").count() == 0
        page.get_by_role("combobox", name="Model").select_option("gemma3-4b")
        files = page.locator("input[type=file]")
        files.set_input_files(FilePayload(name="dot.gif", mimeType="image/gif", buffer=dot))
        expect(page.get_by_role("button", name="Remove image 1")).to_be_visible()
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".turn.user img")).to_be_visible()
        expect(page.locator(".turn.assistant .text")).to_contain_text("data:image/gif;base64")


def test_by_keyboard(pretended: StandIn, browser: Browser) -> None:
    with opened(browser, f"{pretended.url}/ui#chat") as page:
        message = page.get_by_label("Message")
        expect(page.get_by_role("combobox", name="Model")).to_have_value("qwen3-32b")
        message.press("/")
        expect(page.get_by_role("option", name="/rag")).to_be_visible()
        message.press("Tab")
        expect(message).to_have_value("/rag ")
        message.press("h")
        message.press("i")
        message.press("Enter")
        expect(message).to_have_value("")
        expect(page.locator(".turn.user")).to_have_text("/rag hi")
        expect(page.locator("details.thought")).to_be_visible()


def test_a_key_is_asked_for_and_kept_for_the_tab(pretended: StandIn, browser: Browser) -> None:
    pretended.key = "the-secret-of-admin"
    with opened(browser, f"{pretended.url}/ui", may_fail=True) as page:
        expect(page.get_by_role("alert")).to_contain_text("The gateway wants a key.")
        for secret, told in (("wrong", "does not know this key"), (pretended.key, None)):
            page.get_by_role("button", name=re.compile("^(Enter|Change)")).first.click()
            page.get_by_label("Key", exact=True).locator("input").or_(
                page.get_by_label("Key", exact=True)
            ).last.fill(secret)
            page.get_by_role("button", name="Use it").click()
            if told:
                expect(page.get_by_role("alert")).to_contain_text(told)
        expect(page.locator(".card.model").first).to_be_visible()
        page.reload()
        expect(page.locator(".card.model").first).to_be_visible()
        assert page.context.cookies() == []
        assert all(pretended.key not in asked for asked in pretended.asked)


def test_without_an_admin_key_one_can_chat_and_see_ones_usage(pretended: StandIn, browser: Browser) -> None:
    pretended.is_admin = False
    with opened(browser, f"{pretended.url}/ui", may_fail=True) as page:
        expect(page.get_by_role("alert")).to_contain_text("This needs an admin key")
        page.goto(f"{pretended.url}/ui#keys")
        expect(page.get_by_role("heading", name="Your key's usage")).to_be_visible()
        expect(page.get_by_role("row", name="alice")).to_be_visible()
        page.goto(f"{pretended.url}/ui#chat/gemma3-4b")
        page.get_by_role("button", name="Tell me a story").click()
        expect(page.locator(".turn.assistant .text")).to_contain_text("You said: Tell me a story")


@pytest.mark.parametrize(
    ("view", "path"),
    [
        ("now", "/admin/events"),
        ("activity", "/admin/activity"),
        ("logs", "/admin/logs"),
        ("keys", "/admin/usage"),
        ("settings", "/admin/doctor"),
    ],
)
def test_an_older_gateway_is_told_in_plain_words(
    pretended: StandIn, browser: Browser, view: str, path: str
) -> None:
    pretended.missing = {path}
    with opened(browser, f"{pretended.url}/ui#{view}", may_fail=True) as page:
        expect(page.get_by_role("alert").first).to_contain_text(
            f"This gateway has no {path}: it is older than this page"
        )
