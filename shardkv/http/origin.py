"""Whether a request may come from where it comes from. Pure.

The node has no users and no passwords yet: who reaches the port rules the store. What must not be
is that a *web page* of somebody else reaches it through the browser of one who may:

- a page of another origin may not write: browsers say where a request comes from (`Origin`,
  `Sec-Fetch-Site`), programs that are no browsers say nothing. No CORS header is ever sent;
- a page whose name was pointed at our address (DNS rebinding) is of our "own" origin: so on a
  loopback address the `Host` must be `localhost`, a literal address or the configured host;
- an operator's action needs a header besides, which no page may send across origins, and by
  default a connection from the machine itself that no proxy has forwarded.
"""

from ipaddress import ip_address
from typing import Final

from shardkv.http.problems import Bad, Problem
from shardkv.http.requests import Headers, header
from shardkv.text import quoted

SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
CONFIRM: Final = b"shardkv-confirm"
_FORWARDED: Final = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


def host_name(value: bytes) -> str:
    """The host of a `Host` header, without its port, in small letters."""
    text = value.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def is_address(name: str) -> bool:
    """Whether it is a literal address, which no name server can point elsewhere."""
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def check_host(headers: Headers, own: str) -> None:
    """Refuse a request that was addressed to a name which is not ours.

    Args:
        own: The configured host.

    Raises:
        Problem: 421.
    """
    value = header(headers, b"host")
    if value is None:
        return  # HTTP/1.0: no browser
    name = host_name(value)
    if name != "localhost" and name != own.lower() and not is_address(name):
        raise Problem(
            421,
            "wrong-host",
            f"this node is not {quoted(name)}: use localhost, its address, or {quoted(own)}",
        )


def check_same_origin(headers: Headers) -> None:
    """Refuse what a page of another origin had a browser send.

    Raises:
        Problem: 403.
    """
    site = header(headers, b"sec-fetch-site")
    origin = header(headers, b"origin")
    if site is not None and site not in {b"same-origin", b"none"}:
        raise Problem(403, "cross-origin", "a page of another origin may not change anything here")
    if origin is not None:
        host = header(headers, b"host") or b""
        if origin.partition(b"://")[2].lower() != host.lower():
            raise Problem(
                403, "cross-origin", "a page of another origin may not change anything here"
            )


def is_loopback(client: str) -> bool:
    """Whether a peer's address is of this machine."""
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_action(headers: Headers, client: str, action: str, allowed: str) -> None:
    """Refuse an operator's action that is not meant, or not from here.

    Args:
        client: The peer's address.
        allowed: The setting `http_actions`: "loopback", "any" or "off".

    Raises:
        Problem: 403, or 428 where the confirmation is missing.
    """
    if allowed == "off":
        raise Problem(403, "actions-off", "this node's setting http_actions is off")
    forwarded = [name.decode() for name, _ in headers if name in _FORWARDED]
    if allowed == "loopback" and (forwarded or not is_loopback(client)):
        by = f" (forwarded: {forwarded[0]})" if forwarded else ""
        raise Problem(
            403,
            "not-loopback",
            f"actions are taken from the machine itself only, not from {quoted(client)}{by}; "
            "see the setting http_actions",
        )
    confirmed = header(headers, CONFIRM)
    if confirmed is None:
        raise Problem(
            428, "not-confirmed", f"an action needs the header {CONFIRM.decode()}: {action}"
        )
    if confirmed != action.encode():
        raise Bad(f"the header {CONFIRM.decode()} must be {action}, not {quoted(confirmed)}")
