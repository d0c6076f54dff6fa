"""Entity tags: what a client has is not sent again, and nobody overwrites what they have not seen."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

from tests.api.support import RunningApi

pytestmark = pytest.mark.anyio

URL = "/api/v1/students"


@pytest.fixture
async def url(api: RunningApi) -> str:
    """Of a student at version 2."""
    made = await api.http.post(URL, json={"name": "Ada"})
    assert made.headers["ETag"] == '"1"'
    location: str = made.headers["Location"]
    changed = await api.http.patch(location, json={"name": "Ada King"})
    assert changed.headers["ETag"] == '"2"'
    assert changed.json()["version"] == 2
    return location


async def get(api: RunningApi, url: str, tag: str) -> httpx.Response:
    return await api.http.get(url, headers={"If-None-Match": tag})


@pytest.mark.parametrize("tag", ['"2"', 'W/"2"', '"1", "2"', "*"])
async def test_what_the_client_has_is_not_sent_again(tag: str, api: RunningApi, url: str) -> None:
    for response in (await get(api, url, tag), await api.http.head(url, headers={"If-None-Match": tag})):
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == '"2"'
        assert "content-type" not in response.headers


@pytest.mark.parametrize("tag", ['"1"', '"22"', "2x", '""', "nonsense", '"2'])
async def test_what_it_does_not_have_is_sent(tag: str, api: RunningApi, url: str) -> None:
    response = await get(api, url, tag)
    assert (response.status_code, response.headers["ETag"]) == (200, '"2"')
    assert response.json()["name"] == "Ada King"


async def test_lists_have_tags_of_their_content(api: RunningApi, url: str) -> None:
    first = await api.http.get(URL)
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    assert (await get(api, URL, tag)).status_code == 304
    assert (await api.http.get(URL)).headers["ETag"] == tag
    await api.http.patch(url, json={"name": "Ada"})
    changed = await get(api, URL, tag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


async def test_a_problem_has_no_tag_and_is_always_sent(api: RunningApi, url: str) -> None:
    response = await get(api, f"{url}7", "*")
    assert response.status_code == 404
    assert "ETag" not in response.headers


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("tag", ['"1"', '"3"', 'W/"2"', '"99999999999999999999"', '"2.0"', '"x"', "nonsense", '""'])
async def test_who_has_not_seen_the_latest_changes_nothing(tag: str, method: str, api: RunningApi, url: str) -> None:
    body = {"name": "Eve"} if method == "PATCH" else None
    refused = await api.http.request(method, url, json=body, headers={"If-Match": tag})
    assert refused.status_code == 412
    assert refused.json()["type"] == "/problems/precondition-failed"
    found = (await api.http.get(url)).json()
    assert (found["name"], found["active"], found["version"]) == ("Ada King", True, 2)


@pytest.mark.parametrize("tag", ['"2"', '"1", "2"', "*"])
async def test_who_has_seen_the_latest_may_change_it(tag: str, api: RunningApi, url: str) -> None:
    changed = await api.http.patch(url, json={"name": "Ada"}, headers={"If-Match": tag})
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"3"')
    deleted = await api.http.delete(url, headers={"If-Match": changed.headers["ETag"]})
    assert deleted.status_code == 204
    assert (await api.http.get(url)).headers["ETag"] == '"4"'


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_what_does_not_exist_is_not_found_whatever_its_version(method: str, api: RunningApi) -> None:
    body: Any = {} if method == "PATCH" else None
    response = await api.http.request(method, f"{URL}/17", json=body, headers={"If-Match": '"1"'})
    assert response.status_code == 404


async def test_of_many_who_have_seen_the_same_one_may_change_it(api: RunningApi, url: str) -> None:
    statuses: list[int] = []

    async def change(name: str) -> None:
        response = await api.http.patch(url, json={"name": name}, headers={"If-Match": '"2"'})
        statuses.append(response.status_code)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(change, f"Ada {number}")
    assert sorted(statuses) == [200, 412, 412, 412]
    assert (await api.http.get(url)).json()["version"] == 3
