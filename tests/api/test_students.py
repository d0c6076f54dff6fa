"""The students of the example, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.api.support import RunningApi

pytestmark = pytest.mark.anyio

URL = "/api/v1/students"


async def create(api: RunningApi, name: str = "Ada Lovelace") -> Any:
    response = await api.http.post(URL, json={"name": name})
    assert response.status_code == 201
    return response.json()


async def test_a_student_is_created_and_found_where_the_reply_says(api: RunningApi) -> None:
    response = await api.http.post(URL, json={"name": "Ada Lovelace"})
    created = response.json()
    assert response.status_code == 201
    assert (created["name"], created["active"]) == ("Ada Lovelace", True)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(created["created_at"])).total_seconds() < 60
    found = await api.http.get(response.headers["Location"])
    assert found.status_code == 200
    assert found.headers["Content-Type"] == "application/json"
    assert found.json() == created


async def test_a_change_touches_what_it_names_and_nothing_else(api: RunningApi) -> None:
    created = await create(api)
    changed = (await api.http.patch(f"{URL}/{created['id']}", json={"name": "Ada King"})).json()
    assert changed["name"] == "Ada King"
    assert changed["active"] is True
    assert changed["created_at"] == created["created_at"]
    assert changed["updated_at"] > created["updated_at"]
    assert (await api.http.get(f"{URL}/{created['id']}")).json() == changed


@pytest.mark.parametrize("active", [0, 1, "true", "yes", 1.0, []])
async def test_only_true_and_false_say_whether_a_student_is_active(active: object, api: RunningApi) -> None:
    url = f"{URL}/{(await create(api))['id']}"
    response = await api.http.patch(url, json={"active": active})
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["#/active"]
    assert (await api.http.get(url)).json()["active"] is True


async def test_a_deleted_student_is_not_listed_and_can_be_read_and_brought_back(api: RunningApi) -> None:
    url = f"{URL}/{(await create(api))['id']}"
    for _ in range(2):  # deleting twice is no different from once
        response = await api.http.delete(url)
        assert (response.status_code, response.content) == (204, b"")
        assert "content-type" not in response.headers
    assert (await api.http.get(URL)).json() == {"items": [], "next": None}
    assert (await api.http.get(url)).json()["active"] is False
    assert (await api.http.patch(url, json={"active": True})).json()["active"] is True
    assert len((await api.http.get(URL)).json()["items"]) == 1


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "student_id", ["1", "0", "2147483647", "2147483648", "9223372036854775808", "9" * 5000, "-1"]
)
async def test_a_student_that_does_not_exist_is_not_found(method: str, student_id: str, api: RunningApi) -> None:
    response = await api.http.request(method, f"{URL}/{student_id}", json={} if method == "PATCH" else None)
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/not-found"


@pytest.mark.parametrize(
    "name", ["é", "名前", "a" * 200, "'; DROP TABLE student; --", "%s %(name)s", "\u202e", "a\tb"]
)
async def test_names_are_stored_as_they_are(name: str, api: RunningApi) -> None:
    created = await create(api, name)
    assert (await api.http.get(f"{URL}/{created['id']}")).json()["name"] == name


async def test_head_says_what_get_would(api: RunningApi) -> None:
    head, get = await api.http.head(URL), await api.http.get(URL)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


async def test_options_says_what_there_is(api: RunningApi) -> None:
    response = await api.http.options(URL)
    assert response.status_code == 200
    assert {"GET", "POST"} <= {method.strip() for method in response.headers["Allow"].split(",")}
