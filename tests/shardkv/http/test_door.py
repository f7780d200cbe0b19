"""The door's way to the application inside: what it adds to answers, and what a mistake becomes."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from shardkv.http.door import Door
from shardkv.http.measures import HttpMeasures
from shardkv.http.replies import ALWAYS

Message = MutableMapping[str, Any]
SCOPE = {
    "type": "http",
    "method": "GET",
    "raw_path": b"/docs",
    "query_string": b"",
    "headers": [],
    "client": None,
}


def through(*messages: Message, then: Exception | None = None) -> tuple[list[Message], str]:
    """What leaves the door where the inner application says this and then fails; and how the door
    itself fails."""
    said: list[Message] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(dict(message))
        if then is not None:
            raise then

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def main() -> str:
        door = Door((), {}, inner, HttpMeasures(lambda: 0.0), host=None)
        try:
            await door(dict(SCOPE), receive, send)
        except ArithmeticError as error:
            return type(error).__name__
        return ""

    failed = asyncio.run(main())
    return said, failed


def start(*headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


BODY: Message = {"type": "http.response.body", "body": b"x"}


def test_answers_from_inside_have_what_every_answer_has() -> None:
    (begun, rest), failed = through(start((b"content-length", b"1")), BODY)

    assert failed == "" and rest == BODY
    assert sorted(begun["headers"]) == sorted([(b"content-length", b"1"), *ALWAYS])


def test_what_they_say_themselves_counts() -> None:
    name, _ = ALWAYS[0]

    (begun, _), _ = through(start((name.title(), b"its own")), BODY)

    assert [value for key, value in begun["headers"] if key.lower() == name] == [b"its own"]


def test_a_mistake_before_the_answer_is_not_shown() -> None:
    said, failed = through(then=ZeroDivisionError("a secret"))

    assert failed == "" and said[0]["status"] == 500
    assert b"secret" not in said[1]["body"]


def test_a_mistake_in_the_middle_of_an_answer_cuts_it(caplog: pytest.LogCaptureFixture) -> None:
    said, failed = through(start(), then=ZeroDivisionError("half way"))

    assert failed == "ZeroDivisionError"
    assert [message["type"] for message in said] == ["http.response.start"]
