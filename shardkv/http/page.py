"""The web page at `/`: built files that ship with the package, answered from memory.

The sources are in `web/`, the built files in `shardkv/http/static/` (`make web`). A file below
`assets/` has a hash of its content in its name, so a browser may keep it for ever; the page itself
is asked for again each time, and is 304 while it is the same.

The policy lets the page load and talk to nothing but the node it came from, run no script but its
own files, and stand in nobody's frame. That is also why it cannot go on by itself at another node
when this one ends: that would be another origin, and no node answers the pages of another.
"""

from collections.abc import Awaitable, Callable, Mapping
from gzip import compress
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

from shardkv.http.keys import Asked
from shardkv.http.problems import no_such_path
from shardkv.http.replies import Headers, Reply
from shardkv.http.requests import header
from shardkv.http.routes import Route

Handler = Callable[[Asked], Awaitable[Reply]]

STATIC: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
HASHED: Final = "assets/"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_GZIP_LEVEL: Final = 6
_ALWAYS: Final[Headers] = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"vary", b"accept-encoding"),
)


class Asset(NamedTuple):
    """A file of the page, ready to be sent."""

    body: bytes
    zipped: bytes
    headers: Headers
    tag: bytes


def shipped() -> dict[str, bytes]:
    """The built files by their path, such as `index.html`; empty if none were built."""
    return {
        path.relative_to(STATIC).as_posix(): path.read_bytes()
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in TYPES
    }


class Page:
    """Answers the page's files.

    Args:
        files: Called once, when the first of them is asked for.
    """

    def __init__(self, files: Callable[[], Mapping[str, bytes]] = shipped) -> None:
        self._files = files
        self._contents: Mapping[str, bytes] | None = None
        self._assets: dict[str, Asset] = {}

    def routes(self) -> dict[bytes, Route]:
        """What the door dispatches by the whole path."""

        def named(name: str) -> Handler:
            async def handler(asked: Asked) -> Reply:
                return self.reply(name, asked.headers)

            return handler

        names = {b"/": INDEX, b"/index.html": INDEX, b"/favicon.svg": "favicon.svg"}
        return {path: _route(path, named(name)) for path, name in names.items()}

    def below(self) -> Route:
        """What the door dispatches by the path's beginning: the files whose names have hashes."""

        async def handler(asked: Asked) -> Reply:
            return self.reply(HASHED + asked.rest.decode("latin-1"), asked.headers)

        return _route(b"/" + HASHED.encode(), handler)

    def reply(self, name: str, headers: Headers) -> Reply:
        """The answer to who asks for a file.

        Raises:
            Problem: 404, there is no such file.
        """
        asset = self._asset(name)
        if asset is None:
            raise no_such_path()
        sent = (*asset.headers, (b"etag", asset.tag), *_ALWAYS)
        if asset.tag in (header(headers, b"if-none-match") or b""):
            return Reply(304, b"", sent, kept=True)
        if b"gzip" in (header(headers, b"accept-encoding") or b""):
            return Reply(200, asset.zipped, (*sent, (b"content-encoding", b"gzip")), kept=True)
        return Reply(200, asset.body, sent, kept=True)

    def _asset(self, name: str) -> Asset | None:
        if self._contents is None:
            self._contents = self._files()
        asset = self._assets.get(name)
        body = self._contents.get(name)
        if asset is None and body is not None:
            asset = self._assets[name] = asset_of(name, body)
        return asset


def _route(path: bytes, handler: Handler) -> Route:
    methods = ("GET", "HEAD")
    return Route(path, dict.fromkeys(methods, "page"), dict.fromkeys(methods, handler))


def asset_of(name: str, body: bytes) -> Asset:
    """A file with its headers."""
    kept = b"public, max-age=31536000, immutable" if name.startswith(HASHED) else b"no-cache"
    return Asset(
        body,
        compress(body, _GZIP_LEVEL, mtime=0),
        (
            (b"content-type", TYPES[Path(name).suffix].encode()),
            (b"cache-control", kept),
        ),
        b'"%b"' % blake2b(body, digest_size=12).hexdigest().encode(),
    )
