"""Fetching models with the real client from a hub that is slow, cut, full of errors, and lies."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

from actors.config.schema import HubSettings
from actors.hub.cache import ModelFiles, default_folder
from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.model_names import HubName, NoSuchVariantError
from actors.progress import Progress
from actors.runtime import spawn
from tests.gguf_files import Q8_0, write
from tests.stand_in_hub import StandInHub

REPO = "Org/Model-GGUF"
MIB = 1 << 20


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's content: a repository with two models and a split one, and a repository without any."""
    folder = tmp_path_factory.mktemp("originals")
    repo = folder / REPO
    (repo / "BF16").mkdir(parents=True)
    big = [("token_embd.weight", (4096, 700), Q8_0)]
    for name, seed in (("m-Q4_K_M.gguf", 1), ("m-Q8_0.gguf", 2)):
        path = write(repo / name, {"general.name": f"model {seed}"}, big)
        with path.open("r+b") as file:
            file.seek(-2 * MIB, os.SEEK_END)
            file.write(bytes(range(256)) * 4096 * 2)
    parts = {"split.count": 2, "split.tensors.count": 3}
    write(repo / "BF16/m-BF16-00001-of-00002.gguf", {**parts, "split.no": 0})
    write(repo / "BF16/m-BF16-00002-of-00002.gguf", {**parts, "split.no": 1}, [("x.weight", (256,), Q8_0)])
    (repo / "README.md").write_text("a model")
    text = folder / "org/text"
    text.mkdir(parents=True)
    (text / "README.md").write_text("no model")
    (text / "fake-Q8_0.gguf").write_text("not a model, but long enough to be read as one")
    return folder


@pytest.fixture
def site(originals: Path) -> Iterator[StandInHub]:
    with StandInHub(originals) as hub:
        yield hub


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def make(site: StandInHub, session: aiohttp.ClientSession, cache: Path, **settings: Any) -> Hub:
    settings = {"endpoint": site.url, "cache_dir": str(cache), **settings}
    return Hub(HubSettings(**settings), session, retry_delay=0.01)


@pytest.fixture
def hub(site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path) -> Hub:
    return make(site, session, tmp_path)


Q4 = HubName(REPO, "Q4_K_M")


def content(files: ModelFiles) -> bytes:
    return files.path.read_bytes()


def original(site: StandInHub, name: str = "m-Q4_K_M.gguf") -> bytes:
    return (site.folder / REPO / name).read_bytes()


def partials(cache: Path) -> list[Path]:
    return list(cache.rglob("*.incomplete"))


async def test_a_model_is_fetched_once(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    seen: list[Progress] = []
    files = await hub.find(Q4, on_progress=seen.append)
    assert content(files) == original(site)
    assert (files.label, files.projector) == ("Q4_K_M", None)
    assert seen[-1].have == seen[-1].total == len(original(site))
    assert [progress.have for progress in seen] == sorted(progress.have for progress in seen)
    assert partials(tmp_path) == []
    asked = len(site.seen)
    # From now on the cache has it, in any letter case, and for the default too.
    for name in (Q4, HubName(REPO.lower(), "q4_k_m"), HubName(REPO)):
        assert await hub.find(name) == files
    assert len(site.seen) == asked


async def test_the_cache_is_huggingface_hubs_own(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    files = await hub.find(Q4)
    assert try_to_load_from_cache(REPO, "m-Q4_K_M.gguf", cache_dir=tmp_path) == str(files.path)
    scanned = scan_cache_dir(tmp_path)
    assert not scanned.warnings
    assert [(repo.repo_id, repo.size_on_disk) for repo in scanned.repos] == [(REPO, len(original(site)))]
    # And what it fetched is found here.
    path = await asyncio.to_thread(
        hf_hub_download, REPO, "m-Q8_0.gguf", cache_dir=tmp_path, endpoint=site.url, etag_timeout=5
    )
    asked = len(site.seen)
    assert str((await hub.find(HubName(REPO, "q8_0"))).path) == path
    assert len(site.seen) == asked
    assert [str(model.name) for model in await asyncio.to_thread(hub.cache.models)] == [
        f"{REPO}:Q4_K_M",
        f"{REPO}:Q8_0",
    ]


async def test_a_split_model_in_a_subfolder_with_its_projector(
    originals: Path, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    shutil.copytree(originals, folder)
    write(folder / REPO / "mmproj-F16.gguf", {}, architecture="clip")
    with StandInHub(folder) as site:
        hub = make(site, session, tmp_path / "cache")
        files = await hub.find(HubName(REPO, "BF16"))
        assert files.path.name == "m-BF16-00001-of-00002.gguf"
        assert files.path.with_name("m-BF16-00002-of-00002.gguf").is_file()
        assert files.projector is not None
        assert files.projector.name == "mmproj-F16.gguf"
        assert (await hub.find(HubName(REPO, "BF16"), projector="none")).projector is None


# What arrived is kept


async def test_a_cut_connection_is_taken_up_again(hub: Hub, site: StandInHub) -> None:
    site.cuts = [MIB, 1, 300_000]
    files = await hub.find(Q4)
    assert content(files) == original(site)
    assert [seen.range for seen in site.downloads] == [
        None, f"bytes={MIB}-", f"bytes={MIB + 1}-", f"bytes={MIB + 300_001}-",
    ]  # fmt: skip


async def test_a_download_that_was_cancelled_goes_on(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    site.pace = (256 * 1024, 0.05)
    some = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        if progress.have > MIB:
            some.set()

    task = spawn(hub.find(Q4, on_progress=on_progress), name="find")
    await some.wait()
    task.cancel()
    await asyncio.wait([task])
    (partial,) = partials(tmp_path)
    kept = partial.stat().st_size
    assert kept > MIB
    assert not list(tmp_path.rglob("*.gguf"))
    site.pace = None
    assert content(await hub.find(Q4)) == original(site)
    assert site.downloads[-1].range == f"bytes={kept}-"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_hub_that_is_busy_is_asked_again(status: int, hub: Hub, site: StandInHub) -> None:
    site.failures = [(status, {"Retry-After": "0"})]
    assert content(await hub.find(Q4)) == original(site)


async def test_a_hub_that_stays_busy_is_told(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    site.failures = [(503, {})] * 30
    with pytest.raises(HubError, match="the hub answered with status 503") as caught:
        await hub.find(Q4)
    assert caught.value.failure.retryable
    site.failures = []
    site.cuts = [MIB, *[0] * 10]
    with pytest.raises(HubError, match=r"1,048,576 of .* are kept, and the next try goes on there"):
        await hub.find(Q4)
    site.cuts = []
    assert content(await hub.find(Q4)) == original(site)
    assert site.downloads[-1].range == f"bytes={MIB}-"


async def test_a_server_without_ranges_starts_again(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    site.cuts = [MIB]
    site.takes_ranges = False
    # The header cannot be read by ranges either, but it is at the beginning.
    assert content(await hub.find(Q4)) == original(site)


async def test_two_requests_cause_one_download(
    hub: Hub, site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    site.pace = (512 * 1024, 0.02)
    other = make(site, session, tmp_path)
    tasks = [spawn(each.find(Q4), name="find") for each in (hub, other, hub)]
    results = [await task for task in tasks]
    assert {content(files) for files in results} == {original(site)}
    assert sum(seen.sent for seen in site.downloads) == len(original(site))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk(site: StandInHub, session: aiohttp.ClientSession, small_disk: Path) -> None:
    hub = make(site, session, small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * MIB))
    with pytest.raises(HubError, match=r"bytes free, and .* more are needed"):
        await hub.find(Q4)
    # It fills up while the file comes.
    ballast.unlink()
    site.pace = (256 * 1024, 0.01)

    filling: list[asyncio.Future[int]] = []

    def fill(progress: Progress) -> None:
        if progress.have > MIB and not filling:
            loop = asyncio.get_running_loop()
            filling.append(loop.run_in_executor(None, ballast.write_bytes, bytes(2 * MIB)))

    with pytest.raises(HubError, match=r"is full; .* are kept, and the next try goes on there") as caught:
        await hub.find(Q4, on_progress=fill)
    assert caught.value.failure.retryable
    (partial,) = partials(small_disk)
    kept = partial.stat().st_size
    assert kept > MIB
    ballast.unlink()
    assert content(await hub.find(Q4)) == original(site)
    assert site.downloads[-1].range == f"bytes={kept}-"


# What lies


async def test_a_wrong_hash_never_becomes_a_model(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    site.lies_about_hash = True
    with pytest.raises(HubError, match="the hub announced 0000"):
        await hub.find(Q4)
    assert partials(tmp_path) == []
    assert not list(tmp_path.rglob("*.gguf"))


async def test_errors_do_not_tell_the_password_of_an_address(
    site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub = make(site, session, tmp_path, endpoint=site.url.replace("://", "://me:secret@"))
    site.lies_about_hash = True
    with pytest.raises(HubError) as caught:
        await hub.find(Q4)
    message = caught.value.failure.message
    assert "***@127.0.0.1" in message
    assert "secret" not in message


async def test_a_partial_file_that_was_damaged_is_noticed(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    site.cuts = [MIB, *[0] * 10]
    with pytest.raises(HubError):
        await hub.find(Q4)
    (partial,) = partials(tmp_path)
    partial.write_bytes(bytes(MIB))
    site.cuts = []
    with pytest.raises(HubError, match="it was discarded"):
        await hub.find(Q4)
    assert content(await hub.find(Q4)) == original(site)


async def test_more_bytes_than_announced(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    site.extra = b"x" * 10
    with pytest.raises(HubError, match="that the hub announced came; they were discarded"):
        await hub.find(Q4)
    assert [partial.stat().st_size for partial in partials(tmp_path)] == [0]


async def test_what_is_no_model_is_not_downloaded(hub: Hub, site: StandInHub) -> None:
    with pytest.raises(HubError, match=r"fake-Q8_0\.gguf: is not a GGUF file"):
        await hub.find(HubName("org/text"))
    assert site.downloads == []


# What is refused


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            HubName("no/such"),
            "not_found",
            "no/such: there is no such repository on the hub, or it is private",
        ),
        (HubName(REPO, "Q2_K"), "not_found", "it has no 'Q2_K'; there are: BF16, Q4_K_M, Q8_0"),
    ],
)
async def test_what_is_not_there(name: HubName, kind: str, message: str, hub: Hub) -> None:
    with pytest.raises(HubError) as caught:
        await hub.find(name)
    assert message in str(caught.value)
    assert (caught.value.failure.kind, caught.value.failure.retryable) == (kind, False)


async def test_an_unknown_revision(hub: Hub) -> None:
    with pytest.raises(HubError, match="it has no revision 'v9'"):
        await hub.find(Q4, revision="v9")


async def test_gated_models_and_tokens(
    site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    site.gated.add(REPO)
    for token in (None, "bad"):
        with pytest.raises(HubError, match=r"access is restricted; .*Access to model") as caught:
            await make(site, session, tmp_path, token=token).find(Q4)
        assert (caught.value.failure.kind, caught.value.failure.retryable) == ("forbidden", False)
    with StandInHub(site.folder) as cdn:
        site.redirect = cdn.url.replace("127.0.0.1", "localhost")
        files = await make(site, session, tmp_path, token="good").find(Q4)
        assert content(files) == original(site)
        # The token is for the hub alone.
        assert {seen.token for seen in cdn.seen} == {None}
        assert {seen.token for seen in site.seen} >= {"Bearer good"}


async def test_offline(hub: Hub, site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    offline = make(site, session, tmp_path, offline=True)
    with pytest.raises(HubError, match=r"is not in .*, and hub\.offline is set"):
        await offline.find(Q4)
    assert site.seen == []
    files = await hub.find(Q4)
    assert await offline.find(Q4) == files


async def test_a_hub_that_is_not_there(
    site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub = make(site, session, tmp_path, endpoint="http://127.0.0.1:9")
    with pytest.raises(HubError, match="the hub cannot be reached") as caught:
        await hub.find(Q4)
    assert caught.value.failure.retryable


async def test_a_cache_that_cannot_be_written(
    site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await asyncio.to_thread((tmp_path / "file").touch)
    with pytest.raises(HubError, match=r"file cannot be used as a cache: Not a directory"):
        await make(site, session, tmp_path / "file").find(Q4)


async def test_the_disk_that_may_be_used(
    site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub = make(site, session, tmp_path, max_disk=4 / 1024)
    await hub.find(Q4)
    with pytest.raises(HubError, match=r"hub\.max_disk allows 4,194,304 bytes, .* are used"):
        await hub.find(HubName(REPO, "Q8_0"))
    assert await asyncio.to_thread(hub.cache.remove, Q4) == len(original(site))
    assert content(await hub.find(HubName(REPO, "Q8_0"))) == original(site, "m-Q8_0.gguf")


async def test_a_model_that_can_never_fit_is_not_downloaded(
    site: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    settings = HubSettings(endpoint=site.url, cache_dir=str(tmp_path))
    size = len(original(site))
    small = Hub(settings, session, memory=lambda: size - 1)
    with pytest.raises(
        HubError, match=r"Q4_K_M has 0\.0 GB, and this machine has 0\.0 GB of memory"
    ) as caught:
        await small.find(Q4)
    assert (caught.value.failure.kind, caught.value.failure.retryable) == ("too_large", False)
    assert site.downloads == []
    large = Hub(settings, session, memory=lambda: size)
    assert content(await large.find(Q4)) == original(site)


async def test_removal(hub: Hub, site: StandInHub, tmp_path: Path) -> None:
    for variant in ("Q4_K_M", "Q8_0", "BF16"):
        await hub.find(HubName(REPO, variant))
    remove = hub.cache.remove
    freed = await asyncio.to_thread(remove, HubName(REPO.lower(), "bf16"))
    assert freed == sum(file.stat().st_size for file in (site.folder / REPO / "BF16").iterdir())
    assert [model.name.variant for model in await asyncio.to_thread(hub.cache.models)] == ["Q4_K_M", "Q8_0"]
    with pytest.raises(NoSuchVariantError, match="it has no 'BF16'; there are: Q4_K_M, Q8_0"):
        await asyncio.to_thread(remove, HubName(REPO, "BF16"))
    assert await asyncio.to_thread(remove, HubName(REPO)) == 2 * len(original(site))
    assert await asyncio.to_thread(hub.cache.models) == []
    assert await asyncio.to_thread(hub.cache.size) == 0
    with pytest.raises(NoSuchVariantError, match="is not in"):
        await asyncio.to_thread(remove, HubName(REPO))


async def test_a_hostile_listing_stays_in_the_cache(
    originals: Path, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    class Hostile(StandInHub):
        async def _info(self, request: Any) -> Any:
            answer = await super()._info(request)
            text = str(answer.text).replace("m-Q4_K_M.gguf", "../../../../m-Q4_K_M.gguf")
            return type(answer)(text=text, content_type="application/json")

    with (
        Hostile(originals) as site,
        pytest.raises(HubError, match="it has no 'Q4_K_M'; there are: BF16, Q8_0"),
    ):
        await make(site, session, tmp_path).find(Q4)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_the_standard_cache(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(default_folder()) == expected


async def test_a_cache_with_a_revision_that_is_no_text(hub: Hub, tmp_path: Path) -> None:
    await hub.find(Q4)
    (reference,) = await asyncio.to_thread(lambda: list(tmp_path.rglob("refs/main")))
    await asyncio.to_thread(reference.write_bytes, b"\xff\xfe\0")
    assert await asyncio.to_thread(hub.cache.models) == []
    assert (await hub.find(Q4)).label == "Q4_K_M", "it is listed anew, and nothing is downloaded twice"
    await asyncio.to_thread(reference.write_bytes, b"\0/x")
    assert await asyncio.to_thread(hub.cache.models) == []
