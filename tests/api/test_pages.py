"""Pages of students: complete, in order, filtered; and cursors that nobody can make up."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx
import pytest
from itsdangerous import URLSafeSerializer

from db.pool import connection
from tests.api.support import RunningApi, StartApi

pytestmark = pytest.mark.anyio

URL = "/api/v1/students"


async def create(*names: str) -> None:
    async with connection() as conn:
        await conn.cursor().executemany("INSERT INTO student (name) VALUES (%s)", [[name] for name in names])


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["name"] for item in response.json()["items"]]


def links(response: httpx.Response) -> dict[str, str]:
    return {relation: target for target, relation in re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers["Link"])}


async def pages(api: RunningApi, **parameters: Any) -> list[list[str]]:
    """All of them, by following the links."""
    response = await api.http.get(URL, params=parameters)
    found = [names(response)]
    while "next" in links(response):
        assert response.json()["next"] in links(response)["next"]
        response = await api.http.get(links(response)["next"])
        found.append(names(response))
    assert response.json()["next"] is None
    return found


async def test_pages_follow_each_other_and_miss_nothing(api: RunningApi) -> None:
    await create("e", "d", "c", "b", "a")
    assert await pages(api, limit=2) == [["e", "d"], ["c", "b"], ["a"]]
    assert await pages(api, limit=5) == [["e", "d", "c", "b", "a"]]
    assert await pages(api) == [["e", "d", "c", "b", "a"]]


async def test_a_row_with_an_odd_time_spoils_no_page(api: RunningApi) -> None:
    await create("a", "b", "c")
    async with connection() as conn:
        await conn.execute("UPDATE student SET created_at = 'infinity', updated_at = '-infinity' WHERE name = 'b'")
    assert await pages(api) == [["a", "b", "c"]]


async def test_there_may_be_nothing(api: RunningApi) -> None:
    response = await api.http.get(URL)
    assert response.json() == {"items": [], "next": None}
    assert links(response) == {"first": URL}


async def test_a_cursor_may_be_passed_by_hand(api: RunningApi) -> None:
    await create("a", "b", "c")
    first = (await api.http.get(URL, params={"limit": 2})).json()
    assert names(await api.http.get(URL, params={"limit": 2, "cursor": first["next"]})) == ["c"]


async def test_filters_hold_on_every_page_and_in_every_link(api: RunningApi) -> None:
    await create("Ada 1", "Ben", "Ada 2", "ada 3", "Ada & Ben", "Ada gone")
    async with connection() as conn:
        await conn.execute("UPDATE student SET active = false WHERE name = 'Ada gone'")
    assert await pages(api, limit=1, name="Ada ") == [["Ada 1"], ["Ada 2"], ["Ada & Ben"]]
    assert await pages(api, name="Ada & Ben") == [["Ada & Ben"]]
    assert await pages(api, active=False) == [["Ada gone"]]
    assert await pages(api, active=False, name="Ben") == [[]]
    first = await api.http.get(URL, params={"name": "Ada ", "active": "true", "limit": 1})
    again = await api.http.get(links(first)["first"])
    assert again.json() == first.json()


@pytest.mark.parametrize("name", ["%", "_", "\\", "a%", "'", "\u00e9", ".*"])
async def test_a_name_is_looked_for_as_it_is(name: str, api: RunningApi) -> None:
    await create("abc", f"{name}x")
    assert names(await api.http.get(URL, params={"name": name})) == [f"{name}x"]


async def test_what_comes_and_goes_meanwhile_moves_no_page(api: RunningApi) -> None:
    await create("a", "b", "c", "d")
    first = await api.http.get(URL, params={"limit": 2})
    async with connection() as conn:
        await conn.execute("UPDATE student SET active = false WHERE name IN ('a', 'b')")
        await conn.execute("UPDATE student SET name = name || '!' WHERE name = 'c'")
    await create("e")
    assert names(await api.http.get(links(first)["next"])) == ["c!", "d"]


def check_refused(response: httpx.Response) -> None:
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/invalid-request"
    assert [(error["parameter"], error["code"]) for error in problem["errors"]] == [("cursor", "cursor")]


async def test_a_cursor_that_was_made_up_or_changed_is_refused(api: RunningApi) -> None:
    await create("a", "b", "c")
    cursor = (await api.http.get(URL, params={"limit": 1})).json()["next"]
    payload, _, signature = cursor.rpartition(".")
    other = base64.urlsafe_b64encode(b"0").rstrip(b"=").decode()
    signed_by_others = URLSafeSerializer("secret", salt=json.dumps([URL, {}])).dumps(0)
    flipped = ("A" if signature[5] != "A" else "B").join((signature[:5], signature[6:]))
    made_up = ["", "1", "nonsense", "\0", "é", ".", payload, f"{payload}.", f"{other}.{signature}", f"{cursor}x"]
    for forged in (*made_up, f"{payload}.{flipped}", signed_by_others, cursor.upper(), "." + "a" * 400):
        check_refused(await api.http.get(URL, params={"limit": 1, "cursor": forged}))
    assert names(await api.http.get(URL, params={"limit": 1, "cursor": cursor})) == ["b"]


async def test_a_cursor_is_good_for_its_own_filters_alone(api: RunningApi) -> None:
    await create("a", "b", "c")
    cursor = (await api.http.get(URL, params={"limit": 1})).json()["next"]
    for other in ({"active": False}, {"name": "a"}):
        check_refused(await api.http.get(URL, params={"cursor": cursor, **other}))
    for same in ({}, {"active": True}, {"limit": 2}, {"name": ""}):
        assert names(await api.http.get(URL, params={"cursor": cursor, **same}))[0] == "b"


async def test_a_cursor_outlives_a_restart_and_is_good_at_every_replica(start_api: StartApi) -> None:
    await create("a", "b")
    async with start_api() as one, start_api() as other:
        cursor = (await one.http.get(URL, params={"limit": 1})).json()["next"]
        assert names(await other.http.get(URL, params={"cursor": cursor})) == ["b"]
    async with start_api() as restarted:
        assert names(await restarted.http.get(URL, params={"cursor": cursor})) == ["b"]


async def test_a_cursor_is_signed_with_the_key_of_the_settings_if_there_is_one(start_api: StartApi) -> None:
    await create("a", "b")
    async with (
        start_api(api={"cursor_key": "one"}) as one,
        start_api(api={"cursor_key": "other"}) as other,
    ):
        cursor = (await one.http.get(URL, params={"limit": 1})).json()["next"]
        check_refused(await other.http.get(URL, params={"cursor": cursor}))
        assert names(await one.http.get(URL, params={"cursor": cursor})) == ["b"]


@pytest.mark.usefixtures("faults")
async def test_names_are_those_of_the_document_wherever_they_are_said(start_api: StartApi) -> None:
    async with start_api(debug=True) as api:
        document = (await api.http.get("/openapi.json")).json()
        response = await api.http.get("/api/v1/faults/named", params={"fullName": "Ada", "limit": 1})
        assert response.json()["items"] == [{"id": 1, "fullName": "Ada"}]
        following = await api.http.get(links(response)["next"])
        assert following.json()["items"] == [{"id": 2, "fullName": "Ada"}]
    assert "fullName" in document["components"]["schemas"]["Named"]["properties"]
