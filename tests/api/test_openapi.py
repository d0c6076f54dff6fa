"""The document, held against the routes: whatever is added has to be documented, or these fail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from werkzeug.routing import Rule

from roles.api.app import PREFIX, Api, create_app
from roles.api.docs import PAGES, openapi_document
from roles.api.routes import ROUTES
from schema.settings import Settings
from tests.api.support import Faults, RunningApi, StartApi

OUTSIDE = {
    *PAGES,
    "/docs/<any('docs', 'swagger-ui', 'redoc', 'scalar'):folder>/<name>",
    "/openapi.json",
    "/problems",
    "/problems/<name>",
}
"""What is not the API itself."""

Json = dict[str, Any]


@pytest.fixture(scope="module")
def app() -> Api:
    return create_app(Settings(debug=True))


@pytest.fixture(scope="module")
def document(app: Api) -> Json:
    found: Json = json.loads(openapi_document(app))
    return found


def rules(app: Api) -> Iterator[tuple[str, str, Rule]]:
    """`(method, path, rule)` of every route of the API."""
    for rule in app.url_map.iter_rules():
        if rule.rule not in OUTSIDE:
            path = re.sub(r"<(?:[^:<>]*:)?([^<>]+)>", r"{\1}", rule.rule)
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method.lower(), path, rule


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def problems(response: Json) -> Json:
    """The examples of a problem by name; none if the response is none."""
    found: Json = response.get("content", {}).get("application/problem+json", {}).get("examples", {})
    return found


def walk(node: Any, where: str = "#") -> Iterator[tuple[str, Json]]:
    """Every object in the document, with its place."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from walk(value, f"{where}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, f"{where}/{index}")


def test_the_document_is_valid_openapi_3_1(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_the_api_is_where_the_document_is(document: Json) -> None:
    assert [server["url"] for server in document["servers"]] == ["/"]


def test_every_route_is_below_the_prefix_and_in_the_document(app: Api, document: Json) -> None:
    found = {(method, path) for method, path, _ in rules(app)}
    assert all(path.startswith(f"{PREFIX}/") for _, path in found)
    assert found == {(method, path) for path, methods in document["paths"].items() for method in methods}


def test_every_blueprint_is_served(app: Api) -> None:
    served = {rule.endpoint.rpartition(".")[0] for _, _, rule in rules(app)}
    assert served == {blueprint.name for blueprint in ROUTES}


def test_every_operation_says_what_it_does(document: Json) -> None:
    for place, operation in operations(document):
        assert operation["summary"].endswith("."), place
        assert operation["description"], place
        assert operation["tags"], place
    identifiers = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(identifiers)) == len(identifiers)


def test_every_operation_documents_its_errors(document: Json) -> None:
    for place, operation in operations(document):
        expected = {"406", "500", "503"}
        if "requestBody" in operation:
            expected |= {"400", "408", "413", "415", "422"}
        if any(parameter["in"] == "query" for parameter in operation["parameters"]):
            expected |= {"422"}
        if any(parameter["in"] == "path" for parameter in operation["parameters"]):
            expected |= {"404"}
        assert expected <= operation["responses"].keys(), place
        assert [status for status in operation["responses"] if status.startswith("2")], place


@pytest.mark.parametrize("mode", ["none", "api_key", "jwt"])
def test_every_operation_says_which_scopes_it_needs(mode: str) -> None:
    jwt = {"issuer": "https://issuer.test", "audience": "rolecall"}
    clients = {"jwks": {"url": "https://issuer.test/keys"}}
    app = create_app(Settings.model_validate({"auth": {"mode": mode, "jwt": jwt}, "clients": clients}))
    document: Json = json.loads(openapi_document(app))
    OpenAPIV31SpecValidator(document).validate()
    [(scheme, described)] = document["components"]["securitySchemes"].items()
    assert (described["type"], described["scheme"]) == ("http", "bearer")
    found = dict(operations(document))
    for method, path, rule in rules(app):
        place = f"{method.upper()} {path}"
        scopes = sorted(app.access[rule.endpoint].scopes or ())
        assert found[place]["security"] == [*([{}] if mode == "none" else []), {scheme: scopes}], place
        assert all(f"`{scope}`" in found[place]["description"] for scope in scopes), place
        assert {"401", "403"} <= found[place]["responses"].keys(), place


def test_what_is_public_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roles.api.app.ROUTES", (Faults().blueprint(),))
    document: Json = json.loads(openapi_document(create_app(Settings())))
    echo = document["paths"][f"{PREFIX}/faults/echo"]["post"]
    assert echo["security"] == []
    assert not {"401", "403"} & echo["responses"].keys()


def test_every_error_is_a_problem_with_an_example(document: Json) -> None:
    for place, operation in operations(document):
        for status, response in operation["responses"].items():
            assert response["description"], place
            if status.startswith(("4", "5")):
                [(kind, content)] = response["content"].items()
                assert kind == "application/problem+json", place
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                assert [example["value"]["status"] for example in content["examples"].values()], place
                assert {example["value"]["status"] for example in content["examples"].values()} == {int(status)}
            if status in ("429", "503"):
                assert "Retry-After" in response["headers"]


def test_what_can_be_sent_again_and_what_depends_on_a_version_says_so(document: Json) -> None:
    for place, operation in operations(document):
        method = place.split()[0]
        headers = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
        responses = operation["responses"]
        assert ("Idempotency-Key" in headers) == (method == "POST"), place
        assert ("If-Match" in headers) == ("412" in responses) == (method in ("PATCH", "DELETE")), place
        assert ("If-None-Match" in headers) == ("304" in responses) == (method == "GET"), place
        if method == "POST":
            assert "in-progress" in problems(responses["409"]), place
        told = {kind for error in responses.values() for kind in problems(error)}
        assert ("idempotency-key-reused" in told) == ("in-progress" in told) == (method == "POST"), place
        if method == "GET":
            assert "ETag" in responses["200"]["headers"], place
    listing = document["paths"]["/api/v1/students"]["get"]
    assert "Link" in listing["responses"]["200"]["headers"]


def test_what_is_created_says_where(document: Json) -> None:
    created = [response for _, operation in operations(document) if (response := operation["responses"].get("201"))]
    assert created
    assert all("Location" in response["headers"] for response in created)


def test_no_content_has_no_content(document: Json) -> None:
    for _, operation in operations(document):
        assert "content" not in operation["responses"].get("204", {})


def test_every_parameter_says_what_it_is_and_whether_it_must_be(document: Json) -> None:
    parameters = [parameter for _, operation in operations(document) for parameter in operation["parameters"]]
    assert {parameter["name"]: parameter["required"] for parameter in parameters} == {
        "cursor": False,
        "limit": False,
        "active": False,
        "name": False,
        "If-None-Match": False,
        "If-Match": False,
        "Idempotency-Key": False,
        "student_id": True,
        "area": True,
        "city": True,
    }
    for parameter in parameters:
        assert parameter["in"] == "path" or parameter["description"]


def test_every_body_and_every_reply_has_an_example(document: Json) -> None:
    schemas = document["components"]["schemas"]
    for place, node in walk(document["paths"]):
        if (reference := node.get("$ref", "")).startswith("#/components/schemas/") and place.endswith("/schema"):
            schema = schemas[reference.rpartition("/")[2]]
            assert schema.get("examples") or any(
                "examples" in field or "$ref" in json.dumps(field) for field in schema["properties"].values()
            ), place


def test_every_example_is_valid(document: Json) -> None:
    registry: Registry[Any] = Registry().with_resource("urn:document", DRAFT202012.create_resource(document))
    checked = 0
    for place, node in walk(document):
        pairs = [(node, example) for example in node.get("examples", [])] if "examples" in node else []
        if isinstance(node.get("examples"), dict):  # a media type's, beside its schema
            pairs = [(node["schema"], example["value"]) for example in node["examples"].values()]
        for schema, example in pairs:
            absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:document#/'))
            errors = list(Draft202012Validator(absolute, registry=registry).iter_errors(example))
            assert not errors, f"{place}: {errors}"
            checked += 1
    assert checked > 50


@pytest.mark.anyio
async def test_the_document_is_made_once_and_shown_with_debug_alone(start_api: StartApi, api: RunningApi) -> None:
    for path in ("/openapi.json", "/docs", "/docs/swagger-ui/swagger-ui.css", "/redocs", "/scalar"):
        assert (await api.http.get(path)).status_code == 404
    async with start_api(debug=True) as debug:
        first, second = await debug.http.get("/openapi.json"), await debug.http.get("/openapi.json")
        assert first.headers["Content-Type"] == "application/json"
        assert first.content == second.content == openapi_document(create_app(Settings(debug=True)))


def test_the_committed_document_is_what_the_routes_say() -> None:
    committed = (Path(__file__).parent.parent.parent / "docs" / "openapi.json").read_bytes()
    assert committed == openapi_document(create_app(Settings())) + b"\n", "python app.py openapi > docs/openapi.json"
