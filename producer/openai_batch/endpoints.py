"""Which endpoints a batch can ask, and what makes a row of JSON a line of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("custom_id", "method", "url", "body")
VERSION = "/v1"

MOST_NEW_TOKENS = 4096
"""Of a chat's answer where neither its line nor the person says more or less.

A hosted model goes on to the end of its context. Here a row holds room for its longest answer, so
that few rows would fit beside each other.
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one URL asks for, as a task."""

    url: str
    task: str
    noun: str  # one line of it, for people
    field: str  # of the body: the texts
    defaults: Mapping[str, Any]  # options where neither a line nor the person says: the API's own


ENDPOINTS = {
    endpoint.url: endpoint
    for endpoint in (
        Endpoint(
            "/v1/chat/completions",
            "generation",
            "chat completion",
            "messages",
            {
                "messages": True,
                "temperature": 1,
                "max_new_tokens": MOST_NEW_TOKENS,
                "fit_answer": True,
            },
        ),
        Endpoint(
            "/v1/completions",
            "generation",
            "completion",
            "prompt",
            {"chat": "off", "temperature": 1, "max_new_tokens": 16, "fit_answer": True},
        ),
        Endpoint(
            "/v1/embeddings",
            "embeddings",
            "embedding request",
            "input",
            {"on_long": "error"},
        ),
    )
}


def find_endpoint(url: str) -> Endpoint | None:
    """The endpoint of this URL, which may lack the version, as it does in files for Azure."""
    return ENDPOINTS.get(url) or ENDPOINTS.get(VERSION + url)


def is_request(row: Mapping[str, Any]) -> bool:
    """Whether a row is a line of a batch: all four keys, and what only such lines have in them."""
    url = row.get("url")
    return (
        all(key in row for key in KEYS)
        and isinstance(row["body"], dict)
        and isinstance(url, str)
        and (url.startswith(f"{VERSION}/") or find_endpoint(url) is not None)
    )
