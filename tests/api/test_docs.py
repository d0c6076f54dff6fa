"""The documentation page works without any other host, and its browser is told to ask none."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

from roles.api.docs import PAGES, STATIC
from tests.api.support import RunningApi, StartApi

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api(debug=True) as api:
        yield api


class References(HTMLParser):
    """What a page makes its browser load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "link", "img", "iframe"):
            self.found.append(values.get("src") or values.get("href") or "")
        self.inline += tag == "script" and "src" not in values


each_page = pytest.mark.parametrize("path", PAGES)


@each_page
async def test_the_page_loads_its_files_from_here_and_they_are_there(path: str, api: RunningApi) -> None:
    page = await api.http.get(path)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    kinds = {"css": "text/css", "js": "text/javascript", "png": "image/png"}
    references = References(page.text).found
    assert references
    for reference in references:
        if reference == "data:,":  # no icon, so that the browser asks for none
            continue
        assert "//" not in reference
        file = await api.http.get(urljoin(path, reference))
        assert file.status_code == 200, reference
        assert file.headers["Content-Type"].partition(";")[0] == kinds[reference.rpartition(".")[2]]
        assert file.content


@each_page
async def test_the_browser_may_run_and_ask_nothing_but_what_is_ours(path: str, api: RunningApi) -> None:
    page = await api.http.get(path)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "http" not in page.headers["Content-Security-Policy"]
    assert References(page.text).inline == 0  # which the policy would not run


@each_page
async def test_the_page_shows_our_document_and_names_no_other_host(path: str, api: RunningApi) -> None:
    page = (await api.http.get(path)).text
    script = (await api.http.get(f"/docs/docs/{PAGES[path]}.js")).text
    [document] = re.findall(r'"([^"]+\.json)"', script)
    assert (await api.http.get(urljoin(path, document))).status_code == 200
    for text in (page, script):
        assert "http" not in re.sub(r"// .*", "", text)


async def test_the_documentation_is_shown_only_if_somebody_wants_it(start_api: StartApi) -> None:
    async with start_api() as api:
        assert {(await api.http.get(path)).status_code for path in (*PAGES, "/openapi.json")} == {404}
    async with start_api(api={"docs": True}) as api:
        assert {(await api.http.get(path)).status_code for path in (*PAGES, "/openapi.json")} == {200}


@pytest.mark.parametrize("name", ["..%2fdocs.py", "%2e%2e/docs.py", "nope.js", "", "../../docs.py", "%00"])
async def test_nothing_else_is_served_from_there(name: str, api: RunningApi) -> None:
    reply = await api.raw(f"GET /docs/docs/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert reply.status == 404
    assert reply.problem()["type"] == "/problems/not-found"


VENDORED = {
    "swagger-ui": (r"swagger-ui-dist (5\.\d+\.\d+)", "swagger-ui-bundle.js", "LICENSE", "Apache License"),
    "redoc": (r"redoc (2\.\d+\.\d+)", "redoc.standalone.js", "LICENSE", "MIT License"),
    "scalar": (r"@scalar/api-reference (1\.\d+\.\d+)", "standalone.js", "VERSION.md", "MIT license"),
}


@pytest.mark.parametrize("folder", VENDORED)
def test_vendored_files_keep_their_licence_and_say_their_version(folder: str) -> None:
    stated, bundle, licence, words = VENDORED[folder]
    version = re.search(stated, (STATIC / folder / "VERSION.md").read_text())
    assert version
    assert version[1] in (STATIC / folder / bundle).read_text()
    assert words in (STATIC / folder / licence).read_text()
