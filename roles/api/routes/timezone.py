"""Timezones, as another service knows them."""

from __future__ import annotations

from quart import Blueprint, Response
from quart_schema import document_response, tag_blueprint, validate_querystring

from clients import clients
from roles.api.access import requires
from roles.api.replies import not_found, reply
from schema.problems import Problem
from schema.timezone import Timezone, TimezoneQuery

blueprint = Blueprint("timezone", __name__, url_prefix="/timezone")
tag_blueprint(blueprint, ["timezone"])


@blueprint.get("")
@requires("timezone:read")
@validate_querystring(TimezoneQuery)
@document_response(Timezone)
@document_response(Problem, 404)
@document_response(Problem, 502)
@document_response(Problem, 504)
async def get_timezone(query_args: TimezoneQuery) -> Response:
    """Get the time in a timezone.

    The timezone's name is `area/city`. The answer is the timezone service's.
    """
    found = await clients().timezone.get(query_args.area, query_args.city)
    return reply(found or not_found("timezone", f"{query_args.area}/{query_args.city}"))
