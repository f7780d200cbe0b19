"""`/docs`: the OpenAPI document as one plain page. Nothing is fetched from elsewhere."""

from html import escape
from typing import Any

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace}section{border-top:1px solid #8885;padding:1rem 0}
table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}
h3 code{font-size:1.1rem}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}
a{color:#8bf}}"""


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(info['title'])} HTTP</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        *(f"<p>{_words(p)}</p>" for p in info["description"].split("\n\n")),
        "<p>The document for programs: <a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    return "".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(p['name'])}</code><td>{escape(p['in'])}"
        f"<td>{_words(p.get('description', ''))}"
        for p in operation.get("parameters", ())
    ]
    bodies = ", ".join(
        f"<code>{escape(kind)}</code>"
        for kind in operation.get("requestBody", {}).get("content", {})
    )
    answers = [
        f"<tr><td><code>{escape(status)}</code><td>{_words(answer['description'])}"
        for status, answer in operation["responses"].items()
    ]
    return "".join(
        (
            f"<section><h3><code>{method.upper()} {escape(path)}</code></h3>",
            f"<p>{_words(operation.get('summary', ''))}</p>",
            f"<table>{''.join(rows)}</table>" if rows else "",
            f"<p>Body: {bodies}</p>" if bodies else "",
            f"<table>{''.join(answers)}</table></section>",
        )
    )


def _words(text: str) -> str:
    """Text with `code` in backquotes."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(pieces))
