"""The OpenAPI document: what quart-schema makes of the routes' decorators, completed with what it cannot know.

A route documents its success and the errors that are its own (`@document_response(Problem, 404)`). Added here are
the errors that follow from its shape: any can fail or be too slow, one with a body can be sent a bad one.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from quart_schema.openapi import OpenAPIProvider
from quart_schema.validation import DataSource
from werkzeug.routing import IntegerConverter
from werkzeug.routing.converters import BaseConverter
from werkzeug.routing.rules import Rule

from roles.api import idempotency
from roles.api.access import Access, access_of
from roles.api.errors import CHALLENGE, RETRY_AFTER
from roles.api.replies import NoContent
from schema.problems import IN_PROGRESS, KEY_REUSED, MEDIA_TYPE, PROBLEM_TYPES, Problem, untyped
from schema.version import version_field

Json = dict[str, Any]

ALWAYS = (406, 414, 429, 431, 500, 503)
WITH_QUERY = (422,)
WITH_CALLER = (401, 403)
WITH_BODY = (400, 408, 413, 415, 422)
WITH_KEY = (IN_PROGRESS, KEY_REUSED)
TO_BE_TRIED_AGAIN = (429, 503)

SCHEMES: Json = {
    "none": {"type": "http", "scheme": "bearer", "description": 'Not needed here: `auth.mode` is "none".'},
    "api_key": {"type": "http", "scheme": "bearer", "description": "An API key, as `app.py keys create` prints it."},
    "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A token of the issuer."},
}
"""By `auth.mode`."""

ETAG: Json = {
    "description": "Names this state of it.",
    "schema": {"type": "string", "examples": ['"1"']},
    "required": True,
}
LINK: Json = {
    "description": "To the first page and, unless this is the last, to the next one (RFC 8288).",
    "schema": {"type": "string", "examples": ['</api/v1/students>; rel="first"']},
    "required": True,
}
IF_NONE_MATCH, IF_MATCH, IDEMPOTENCY_KEY = (
    {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
    for name, description, schema in (
        ("If-None-Match", "An `ETag`: if it is that of the reply, the reply is 304.", {"type": "string"}),
        ("If-Match", "An `ETag`: if it is not the present one, nothing is done (412).", {"type": "string"}),
        (
            "Idempotency-Key",
            "Made up by the client. A request that is sent again with the same one has the same answer, no effect.",
            {
                "type": "string",
                "pattern": f"^({idempotency.KEY.pattern})$",
                "examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"],
            },
        ),
    )
)

REFERENCE = "#/components/schemas/"


class OpenAPI(OpenAPIProvider):
    """quart-schema's provider, with errors, examples, required parameters, and each model in one place."""

    def schema(self) -> Json:
        document: Json = super().schema()
        document["components"]["securitySchemes"] = {"bearer": SCHEMES[self._app.settings.auth.mode]}
        return document

    def build_paths(self, rule: Rule) -> tuple[Json, Json]:
        paths, components = super().build_paths(rule)
        access = access_of(self._app.view_functions[rule.endpoint])
        for path, operations in paths.items():
            for method, operation in operations.items():
                self._complete(operation, path, method, access)
        components["Problem"] = Problem.model_json_schema(ref_template=REFERENCE + "{model}")
        components.update(components["Problem"].pop("$defs"))
        return paths, components

    def build_path_parameter(self, name: str, converter: BaseConverter) -> Json:
        parameter: Json = super().build_path_parameter(name, converter)
        if isinstance(converter, IntegerConverter):
            parameter["schema"] |= {"minimum": 0, "maximum": converter.max, "examples": [1]}
        return parameter

    def build_querystring_parameters(self, model: type[BaseModel]) -> tuple[list[Json], Json]:  # type: ignore[override]
        parameters, components = super().build_querystring_parameters(model)
        required = model.model_json_schema().get("required", [])
        for parameter in parameters:
            parameter["required"] = parameter["name"] in required
        return parameters, components

    def build_request_body(self, model: type[BaseModel], source: DataSource) -> tuple[Json, Json]:  # type: ignore[override]
        body, components = super().build_request_body(model, source)
        _share_schemas(body, components)
        return {**body, "required": True}, components

    def build_response_object(
        self,
        model: type[BaseModel],  # type: ignore[override]
        headers_model: type[BaseModel] | None,  # type: ignore[override]
    ) -> tuple[Json, Json]:
        if model is NoContent:
            return {"description": NoContent.__doc__}, {}
        if model is Problem:
            return {"content": {MEDIA_TYPE: {}}}, {}
        response, components = super().build_response_object(model, headers_model)
        if version_field(model) is not None:
            response["headers"] = {"ETag": ETAG}
        _share_schemas(response, components)
        return response, components

    def _complete(self, operation: Json, path: str, method: str, access: Access | None) -> None:
        operation["description"] = operation.get("description", "").strip()
        operation["security"] = []
        if "tags" in operation:
            operation["tags"].sort()
        responses = operation["responses"]
        own = [status for status, response in responses.items() if MEDIA_TYPE in response.get("content", {})]
        if "requestBody" in operation:
            own.extend(WITH_BODY)
        elif any(parameter["in"] == "query" for parameter in operation["parameters"]):
            own.extend(WITH_QUERY)
        if access is not None and access.scopes is not None:
            self._protect(operation, sorted(access.scopes))
            own.extend(WITH_CALLER)
        own.extend(self._conditions(operation, method))
        for status in (*own, *ALWAYS):
            responses[status] = _problem_response(status, path, method)
        if 201 in responses:  # noqa: PLR2004 - Created
            location = {"description": "The URL of what was created.", "schema": {"type": "string"}, "required": True}
            responses[201].setdefault("headers", {})["Location"] = location
        operation["responses"] = {str(status): responses[status] for status in sorted(responses)}

    def _conditions(self, operation: Json, method: str) -> tuple[int, ...]:
        """Headers with which a request depends on what was before, and the errors that can come of them."""
        parameters, responses = operation["parameters"], operation["responses"]
        if method == "get":
            parameters.append(IF_NONE_MATCH)
            if 200 in responses:  # noqa: PLR2004 - OK
                responses[200].setdefault("headers", {})["ETag"] = ETAG
            responses[304] = {"description": "The client has it already.", "headers": {"ETag": ETAG}}
        if any(parameter["name"] == "cursor" for parameter in parameters):
            responses[200]["headers"]["Link"] = LINK
        if 412 in responses:  # noqa: PLR2004 - Precondition Failed
            parameters.append(IF_MATCH)
        if method == "post":
            parameters.append(IDEMPOTENCY_KEY)
            return (400, 409, 422)
        return ()

    def _protect(self, operation: Json, scopes: list[str]) -> None:
        open_to_all = self._app.settings.auth.mode == "none"
        operation["security"] = [*([{}] if open_to_all else []), {"bearer": scopes}]
        if scopes:
            needs = f"Needs the scope `{' '.join(scopes)}`."
            operation["description"] = f"{operation['description']}\n\n{needs}".strip()


def _problem_response(status: int, path: str, method: str) -> Json:
    kinds = [kind for kind in PROBLEM_TYPES if kind.status == status and (method == "post" or kind not in WITH_KEY)]
    examples = {kind.name: kind(kind.meaning) for kind in kinds} or {"problem": untyped(status, None)}
    response: Json = {
        "description": " Or: ".join(problem.detail or problem.title for problem in examples.values()),
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": f"{REFERENCE}Problem"},
                "examples": {
                    name: {"value": {**problem.model_dump(exclude_none=True), "instance": path}}
                    for name, problem in examples.items()
                },
            }
        },
    }
    if status in WITH_CALLER:
        scheme = {"type": "string", "examples": [CHALLENGE]}
        response["headers"] = {
            "WWW-Authenticate": {"description": "What is missing.", "schema": scheme, "required": True}
        }
    if status in TO_BE_TRIED_AGAIN:
        seconds = {"type": "integer", "examples": [RETRY_AFTER]}
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": seconds, "required": True}
        }
    return response


def _share_schemas(body: Json, components: Json) -> None:
    """Moves the schema of each content into the components, where every use of the model finds it."""
    for content in body["content"].values():
        schema = content["schema"]
        if "title" in schema:
            components[schema["title"]] = schema
            content["schema"] = {"$ref": REFERENCE + schema["title"]}
