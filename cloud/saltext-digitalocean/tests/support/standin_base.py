"""What all parts of the stand-in share: refusals, regions, the time as the API writes it."""

from __future__ import annotations

import datetime

REGIONS = {
    "fra1": "Frankfurt 1",
    "ams3": "Amsterdam 3",
    "nyc3": "New York 3",
    "sgp1": "Singapore 1",
}
ERROR_IDS = {
    400: "bad_request", 401: "Unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict",
    422: "unprocessable_entity", 429: "too_many_requests", 500: "server_error", 503: "service_unavailable",
}  # fmt: skip
MESSAGES = {
    401: "Unable to authenticate you",
    403: "You are not authorized to perform this operation",
    404: "The resource you requested could not be found.",
    429: "API Rate limit exceeded.",
    500: "Unexpected server-side error",
    503: "Service Unavailable",
}


class Refusal(Exception):
    def __init__(
        self, status: int, message: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.message = message or MESSAGES.get(status, "")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
