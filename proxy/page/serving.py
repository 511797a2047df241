"""`/ui`: the page and its files. They need no key: what the page shows needs one."""

from collections.abc import Awaitable, Callable

from aiohttp import ETag, web

from proxy.door.parsing import BASE_PATH
from proxy.errors import ApiError
from proxy.page.files import PageFile, PageFiles

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PageViews:
    """The handlers."""

    def __init__(self, page: PageFiles) -> None:
        self._page = page

    def add_routes(self, router: web.UrlDispatcher, quiet: Callable[[Handler], Handler]) -> None:
        """`quiet` is put around each handler: these requests say nothing about models."""
        router.add_get("/ui", quiet(self.index))
        # The parser takes the slash from "/ui/", where a browser then looks for "ui/DIGEST/..." below "/ui/".
        router.add_get("/ui/{again:(?:ui/)?}{digest:[0-9a-f]{16}}/{path:.+}", quiet(self.file))

    async def index(self, request: web.Request) -> web.StreamResponse:
        """Answer the page."""
        return _answer(request, self._page.index)

    def or_else(self, other: Handler) -> Handler:
        """Make the handler of `/`: the page for browsers, `other` for programs.

        Below a base path browsers are sent to `/ui`, because relative addresses of a page at "/base" would
        leave the base.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            """Answer the page to a browser; to a program, that Ollama is running."""
            base = request.app.get(BASE_PATH, "")
            if "text/html" not in request.headers.get("Accept", ""):
                response = await other(request)
            elif base:
                response = web.Response(status=302, headers={"Location": f"{base}/ui"})
            else:
                response = _answer(request, self._page.index)
            response.headers["Vary"] = "Accept, Accept-Encoding"
            return response

        return handle

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Answer one of the page's files."""
        path = request.match_info["path"]
        file = self._page.files.get(path) if request.match_info["digest"] == self._page.digest else None
        if file is None:
            message = f"the page of this gateway has no file {path[:200]!r}; reload the page"
            raise ApiError(404, message, code="not_found")
        return _answer(request, file)


def _answer(request: web.Request, file: PageFile) -> web.Response:
    compressed = "gzip" in request.headers.get("Accept-Encoding", "")
    headers = file.headers(compressed=compressed)
    # What is compressed differs in its bytes, so its tag differs.
    tag = ETag(f"{file.tag}-gzip" if compressed else file.tag)
    known = request.if_none_match or ()
    if any(one.value in (tag.value, "*") for one in known):
        response = web.Response(status=304, headers=headers)
        response.headers.pop("Content-Encoding", None)
    else:
        response = web.Response(body=file.compressed if compressed else file.body, headers=headers)
    response.etag = tag
    return response
