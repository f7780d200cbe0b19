"""`docs/http.md`, written from the OpenAPI document: `python -m shardkv.http.reference`."""

import sys
from typing import Any, Final

from shardkv.admin import NodeStatus
from shardkv.http import limits
from shardkv.http.actions import Actions
from shardkv.http.app import document_of, make_app
from shardkv.http.front import cold_routes
from shardkv.http.keys import Keys
from shardkv.http.listing import Listing
from shardkv.http.problems import TITLES
from shardkv.http.routes import Cold
from shardkv.http.spec import WHY
from shardkv.http.views import Views
from shardkv.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX
from shardkv.once import NAMES_MAX

HEAD: Final = """# HTTP

Every node serves HTTP at its `http` address (its `client` port + 2), in the same process: any node
serves any key. `http: off` switches it off, and then nothing of it is even loaded. This page is
written from the OpenAPI document by `make http-docs`; a running node has the document at
`/openapi.json`, and as a page at `/docs`. At `/` is a web page to look at the cluster with, to
browse keys and to do an operator's actions; a client needs none of it.

```sh
curl -X PUT localhost:7402/kv/greeting -H 'Content-Type: application/json' -d '{"value": "hello"}'
curl localhost:7412/kv/greeting                          # {"key":"greeting","value":"hello"}
curl -X PUT localhost:7402/kv/photo -H 'Content-Type: application/octet-stream' \\
     --data-binary @me.jpg
curl -H 'Accept: application/octet-stream' localhost:7402/kv/photo > copy.jpg
curl -X PUT localhost:7402/kv/lock -H 'If-None-Match: *' -H 'Content-Type: application/json' \\
     -d '{"value": "mine"}'                              # 412 if somebody has it
curl localhost:7402/batch -H 'Content-Type: application/json' -d '{"operations": [
       {"op": "put", "key": "{user:7}name", "value": "Ada", "if_version": 0},
       {"op": "append", "key": "{user:7}log", "value": "named;"}]}'   # both or neither
curl 'localhost:7402/kv?prefix=user/&limit=100'
curl -N localhost:7402/events                            # the cluster each second, and what happens
curl -X POST localhost:7402/cluster/move -H 'Shardkv-Confirm: move' \\
     -H 'Content-Type: application/json' -d '{"shard": 3, "gid": 2}'
```

## What holds

- **A key is the raw path** after `/kv/`, percent-decoded once, to bytes: `a%2Fb` and `a/b` are the
  same key, `%252F` is the key `%2F`, and nothing is normalised.
- **JSON or bytes**, by `Content-Type` and `Accept`. JSON is UTF-8: a key or value that is not
  is 406 when it is asked for as JSON, and a write that JSON could not answer is refused *before* it
  is done.
- **Reads are linearizable** unless `consistency` says otherwise ([reads.md](reads.md)).
- **Versions are ETags.** `If-Match: "3"` does it only at version 3, `If-None-Match: *` only if the
  key is absent; 412 says that nothing was done.
- **A write is done at most once for each request.** A 503 was certainly not done. A 504 *may have
  been done*, or may yet be: look before you repeat it, or write with a condition. A client whose
  connection broke knows as little; a request that is sent again is another write, unless it has an
  `Idempotency-Key`.
- **`Idempotency-Key: NAME` makes a repeated write exactly once**, through whatever node it comes,
  for 24 hours: of all PUT, POST and DELETE requests of that name to one key one is done, and each
  gets its answer, a refusal too. The name with another body, condition or method is 409. The same
  name for another key names another request; of batches one of a name is done in each shard. It
  moves with its shard, and is in backups. Time is the shard's own, as its leaders measure it: no
  machine's clock forgets a name early. A shard that has its fill of names (below) answers a new one
  with 429: nothing was done.
- **`POST /batch` does all of its writes or none**: 1 to 128 of `put`, `append` and `delete`, in
  their order, each with `if_version` if you like, to keys of one shard, as keys with the same
  `{tag}` are (else 400, `not-one-shard`). A key or value that is no text comes as `key_base64`,
  `value_base64`. The answer is the new version of each key, `{"versions": [1, 4]}`, 0 of a delete;
  a problem has `"operation": 1`, the one that was refused, from 0, and nothing was done.
- **Unknown query parameters and JSON fields are refused**, not ignored.

## Who may reach it

There are no users: who may connect rules the store. So a node listens on loopback addresses, or
speaks HTTPS (`tls_cert`, `tls_key`, `tls_ca`) and asks for a client's certificate: without one it
answers `/livez` and `/readyz`, and else 403 (`certificate-required`). `tls_client_auth: false` asks
for none, `insecure_listen: true` allows HTTP in the clear, and is told in `/health`. Against web
pages of others in the browser of somebody who may:

- a request that changes something and comes from a page of another origin (`Origin`,
  `Sec-Fetch-Site`) is 403; there are no CORS headers;
- on a loopback address `Host` must be `localhost`, a literal address, or the configured host (421
  otherwise): a name that was pointed here by somebody else is not ours (DNS rebinding);
- operators' actions need the header `Shardkv-Confirm` with the action's name besides, come as JSON,
  and are taken from this machine only, not through a proxy (`http_actions`: `loopback`, else `any`
  or `off`);
- the web page may load and talk to nothing but its own node (`Content-Security-Policy`), so it does
  not go on at another node when its own ends: it waits, and says which other pages there are;
- `GET /set` writes only with `http_get_writes: true`: whatever follows links would write, too.
"""

EVENTS: Final = """## The cluster as JSON

`GET /cluster` answers one snapshot, at most 1.5 s old. `GET /events` is a stream of server-sent
events: `cluster` (a snapshot, each second, and four a
second while shards are on the move) and `log` (what happened; `id` is its number, so a
browser that comes back gets what it missed). While nobody watches, a node looks only at its own
replicas.

```text
{"number": 17, "at": "2026-11-21T12:34:27.048Z", "by": "n1",
 "config": {"number": 2, "shards": 64, "groups": [1, 2]},
 "nodes": [{"node": "n1", "state": "running",           running | starting | stopping | silent
            "last_seen_seconds": 0.0, "version": "0.1.0", "uptime_seconds": 12,
            "client": "127.0.0.1:7400", "http": "127.0.0.1:7402", "leads": [0, 1],
            "reads_per_second": 120.0, "writes_per_second": 40.0, "rejected_per_second": 0.0,
            "health": "alive",                             alive | suspect | dead, by the
            "roomy": true, "quick": true,                  controller's leader; and its disk
            "waiting": 3,                                  operations in flight
            "read_ms": {"p50": 2.0, "p99": 5.0}, "write_ms": {"p50": 5.0, "p99": 15.0},
            "fsync_ms": {"p50": 0.25, "p99": 1.0}}],       synced batches of its log
 "groups": [{"gid": 1, "role": "store",                  gid 0 is the controller
             "leader": "n1",                              null: nobody says that it leads
             "term": 3, "commit": 90, "config": 2,
             "voters": ["n1", "n2", "n3"], "outgoing": [], "learners": [],
             "phases": {"serving": 31, "leaving": 1},
             "replicas": [{"node": "n1", "role": "leader", "term": 3, "applied": 90, "lag": 0,
                           "log_bytes": 4711}]}],
 "shards": [{"shard": 0, "owner": 2,                     by the configuration; null: nobody
             "phase": "moving",                           serving | moving | unassigned | unknown
             "holders": [{"gid": 1, "phase": "moving", "other": 2, "progress": "",
                          "bytes_left": 0, "bytes_per_second": 0},
                         {"gid": 2, "phase": "arriving", "other": 1, "progress": "rows",
                          "bytes_left": 65536, "bytes_per_second": 32768}]}],
 "rates": {"reads_per_second": 120.0, "writes_per_second": 40.0, "rejected_per_second": 0.0,
           "read_ms": {"p50": 2.0, "p99": 5.0}, "write_ms": {"p50": 5.0, "p99": 15.0},
           "fsync_ms": {"p50": 0.25, "p99": 1.0}}}
```

Rates and latencies are of the last second and of the whole node, HTTP or not; null where they
cannot be said: the node is silent, or was just started. Latencies are upper bounds of buckets.
A shard in a group is `serving`, `moving` (it serves, and is copied), `leaving` (frozen for the last
piece), `arriving` (`progress`: `waiting`, `rows`, `changes`; `bytes_left` is about) or `parked`.

```text
{"number": 5, "at": "...", "kind": "leader", "text": "n1 leads group 1 in term 3",
 "gid": 1, "node": "n1", "term": 3}
```

| `kind` | also has | when |
|---|---|---|
| `leader` | `gid`, `node`, `term` | a group has a new leader, or a leader a new term |
| `leaderless` | `gid` | nobody says that it leads a group |
| `config` | `config` | a configuration was heard of |
| `shard` | `gid`, `phase`, `other`, `shards`, `config` | shards went into a phase, or are `gone` |
| `node` | `node`, `is` | `silent`, `back`, `restarted`, or `seen` for the first time |
| `members` | `gid`, `voters` | a group has other voters |
| `replica` | `gid`, `node` | a replica has stopped; its node's log says why |
"""


def reference() -> str:
    """The whole page."""
    document = document_of(make_app(_routes_of_nothing()))
    return "\n".join([HEAD, *_routes(document), *_problems(), *_limits(), EVENTS])


def _routes_of_nothing() -> tuple[Cold, ...]:
    """The routes of a node that is not there: only their document is wanted."""

    def status() -> NodeStatus:
        raise AssertionError("nothing is answered here")

    return cold_routes(
        Keys(lambda: None, get_writes=False),
        Listing(lambda: None),
        Views(status, lambda: None, lambda: b""),
        Actions(lambda: None, "off"),
    )


def _routes(document: dict[str, Any]) -> list[str]:
    lines = ["## Routes", ""]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _route(path, method, operation)
    return lines


def _route(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    lines: list[str] = [f"### `{method.upper()} {path}`", "", operation["summary"], ""]
    rows = [
        f"| `{p['name']}` | {p['in']} | {p.get('description', '')} |"
        for p in operation.get("parameters", ())
    ]
    if rows:
        lines += ["| parameter | in | |", "|---|---|---|", *rows, ""]
    kinds = [f"`{kind}`" for kind in operation.get("requestBody", {}).get("content", {})]
    if kinds:
        lines += [f"Body: {' or '.join(kinds)}.", ""]
    done: list[str] = []
    refused: list[str] = []
    for status, answer in operation["responses"].items():
        if "application/problem+json" in answer.get("content", {}):
            refused.append(status)
        else:
            forms = ", ".join(f"`{kind}`" for kind in answer.get("content", {}))
            done.append(f"- **{status}** {answer['description']}{f' ({forms})' if forms else ''}")
    return [*lines, *done, f"- problems: {', '.join(sorted(refused))}", ""]


def _problems() -> list[str]:
    lines = [
        "## Problems",
        "",
        "Whatever is not done is answered with `application/problem+json` (RFC 9457): `type` is a",
        "stable name, `detail` says what, which limit, and what to do.",
        "",
        "| status | | |",
        "|---|---|---|",
    ]
    lines += [f"| {status} | {TITLES[status]} | {why} |" for status, why in sorted(WHY.items())]
    return [*lines, ""]


def _limits() -> list[str]:
    rows = {
        "a key": f"{KEY_BYTES_MAX} bytes",
        "a value": f"{VALUE_BYTES_MAX} bytes; a longer body is cut off while it streams",
        "a URL": f"{limits.URL_BYTES_MAX} bytes",
        "headers": f"{limits.HEADERS_MAX}, together {limits.HEADERS_BYTES_MAX} bytes",
        "time for the headers": f"{limits.HEADERS_SECONDS:g} s",
        "time for the body": f"{limits.BODY_SECONDS:g} s",
        "a client that does not read": f"cut off after {limits.SEND_SECONDS:g} s",
        "an idle connection": f"closed after {limits.KEEP_ALIVE_SECONDS} s",
        "connections of a node": f"{limits.CONNECTIONS_MAX}",
        "bodies being read at a time": f"{limits.BODIES_BYTES_MAX} bytes",
        "readers of `/events`": f"{limits.STREAMS_MAX}",
        "lists being streamed": f"{limits.LISTINGS_MAX}",
        "idempotency keys of a shard": f"{NAMES_MAX}, each for 24 hours",
        "`timeout`": f"{limits.TIMEOUT_SECONDS_MIN:g} to {limits.TIMEOUT_SECONDS_MAX:g} s",
    }
    lines = ["## Limits", "", "| | |", "|---|---|"]
    return [*lines, *(f"| {name} | {limit} |" for name, limit in rows.items()), ""]


if __name__ == "__main__":
    sys.stdout.write(reference())
