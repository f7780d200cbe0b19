"""Operators' actions over HTTP: join, leave, move, transfer. The same as `shardkv ctl` does.

Each needs the header `Shardkv-Confirm` with the action's own name, comes as JSON, and by default is
taken from this machine only (`origin.py` says why). `expect` in the body is the number of the
configuration that the operator looked at: if it is past, nothing is done (409).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from labrpc.transport import Transport
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.errors import ConfigChanged
from shardctrler.types import ConfigNumber, ShardId
from shardkv import control
from shardkv.config import ConfigError
from shardkv.control import GID_MAX, NODES_OF_GROUP_MAX, GroupIsElsewhere, UnknownNode
from shardkv.growth import Wish
from shardkv.http.keys import Asked
from shardkv.http.limits import ACTION_BODY_BYTES_MAX, ACTION_SECONDS
from shardkv.http.origin import check_action
from shardkv.http.problems import Bad, Problem, not_ready
from shardkv.http.replies import Reply, json_reply
from shardkv.http.requests import JSON, json_of, json_text, json_whole, media_type, query_of
from shardkv.http.routes import Cold
from shardkv.http.spec import action_spec
from shardkv.operating import MembersRefused
from shardkv.relocation import Relocation

log = logging.getLogger(__name__)

GROUPS_MAX: Final = 64

Fields = dict[str, Any]


class Means(NamedTuple):
    """By what actions are carried out; None while the node is starting."""

    client: ControllerClient
    transport: Transport


class Actions:
    """The handlers of `/cluster/...`.

    Args:
        allowed: The setting `http_actions`.
    """

    def __init__(self, means: Callable[[], Means | None], allowed: str) -> None:
        self._means = means
        self._allowed = allowed

    def routes(self) -> tuple[Cold, ...]:
        """One route an action."""
        whole, expect = json_whole, {"expect": json_whole}
        return (
            self._route("join", "Let groups take part; new ones are born on their nodes.",
                        self._join, {"groups": _groups, **expect}, ("groups",)),
            self._route("leave", "Let groups take part no more.",
                        self._leave, {"gids": _gids, **expect}, ("gids",)),
            self._route("move", "Give one shard to one group.",
                        self._move, {"shard": whole, "gid": _gid, **expect}, ("shard", "gid")),
            self._route("transfer", "Let a node lead a group.",
                        self._transfer, {"gid": whole, "node": json_text}, ("gid", "node")),
        )  # fmt: skip

    def _route(
        self,
        action: str,
        summary: str,
        act: Callable[[Means, Fields], Awaitable[Fields]],
        fields: Mapping[str, Callable[[object, str], Any]],
        required: tuple[str, ...],
    ) -> Cold:
        async def handler(asked: Asked) -> Reply:
            query_of(asked.query)
            check_action(asked.headers, asked.client, action, self._allowed)
            if media_type(asked.headers) != JSON:
                raise Problem(415, "unsupported-media-type", f"an action comes as {JSON}")
            given = json_of(await asked.body.read(ACTION_BODY_BYTES_MAX), fields)
            missing = [name for name in required if name not in given]
            if missing:
                raise Bad(f"the JSON body must have {', '.join(missing)}")
            means = self._means()
            if means is None:
                raise not_ready("the node is starting")
            log.warning("action over HTTP: %s", action, extra={"by": asked.client})
            try:
                return json_reply(await act(means, given))
            except (ConfigError, UnknownNode, GroupIsElsewhere) as error:
                raise Bad(str(error)) from None
            except MembersRefused as error:
                raise Problem(409, "change-refused", str(error)) from None

        return Cold(
            "POST", f"/cluster/{action}", action, "actions", summary, handler, action_spec(action)
        )

    async def _join(self, means: Means, given: Fields) -> Fields:
        view = await means.client.newest(timeout=ACTION_SECONDS)
        expect = given.get("expect")
        if expect is not None and expect != view.config.number:
            raise ConfigChanged(view.config.number)
        number = await control.join(
            means.client,
            means.transport,
            given["groups"],
            deadline=asyncio.get_running_loop().time() + ACTION_SECONDS,
            progress=log.info,
        )
        return {"config": number}

    async def _leave(self, means: Means, given: Fields) -> Fields:
        gids = [GroupId(gid) for gid in given["gids"]]
        number = await means.client.leave(gids, expect=_expect(given), timeout=ACTION_SECONDS)
        return {"config": number}

    async def _move(self, means: Means, given: Fields) -> Fields:
        number = await means.client.move(
            ShardId(given["shard"]),
            GroupId(given["gid"]),
            expect=_expect(given),
            timeout=ACTION_SECONDS,
        )
        return {"config": number}

    async def _transfer(self, means: Means, given: Fields) -> Fields:
        relocation = await Relocation.prepared(
            means.client,
            means.transport,
            reaching=ACTION_SECONDS,
            deadline=asyncio.get_running_loop().time() + ACTION_SECONDS,
            progress=log.info,
        )
        await relocation.transfer(given["gid"], given["node"])
        return {"gid": given["gid"], "leader": given["node"]}


def _expect(given: Fields) -> ConfigNumber | None:
    return ConfigNumber(given["expect"]) if "expect" in given else None


def _gid(value: object, what: str) -> int:
    gid = json_whole(value, what)
    if not 1 <= gid <= GID_MAX:
        raise Bad(f"field '{what}' must be a group's id from 1 to {GID_MAX}")
    return gid


def _gids(value: object, what: str) -> tuple[int, ...]:
    if type(value) is not list or not 1 <= len(value) <= GROUPS_MAX:
        raise Bad(f"field '{what}' must be a list of 1 to {GROUPS_MAX} group ids")
    gids = tuple(_gid(item, what) for item in value)
    if len(dict.fromkeys(gids)) != len(gids):
        raise Bad(f"field '{what}' names a group twice")
    return gids


def _groups(value: object, what: str) -> tuple[Wish, ...]:
    if type(value) is not dict or not 1 <= len(value) <= GROUPS_MAX:
        raise Bad(f'field \'{what}\' must be an object such as {{"3": ["n4", "n5", "n6"]}}')
    wishes = []
    for key, nodes in value.items():
        if not (key.isascii() and key.isdigit() and key[0] != "0" and len(key) <= 10):
            raise Bad(f"field '{what}': a group's id is a whole number from 1 to {GID_MAX}")
        if type(nodes) is not list or not 1 <= len(nodes) <= NODES_OF_GROUP_MAX:
            raise Bad(f"field '{what}': a group has a list of 1 to {NODES_OF_GROUP_MAX} nodes")
        wishes.append(Wish(_gid(int(key), what), tuple(json_text(node, what) for node in nodes)))
    return tuple(wishes)
