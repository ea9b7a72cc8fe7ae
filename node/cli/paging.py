"""Lists of many pages, read as one up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click

from trellis.client import Client
from trellis.client.methods import Method
from trellis.v1 import common_pb2

MAX_PAGE: Final = 1_000
Item = TypeVar("Item")

limit_option: Final = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="The most lines wanted."
)


def read_pages(
    client: Client,
    method: Method[Any, Any],
    request: Any,
    items_of: Callable[[Any], Iterable[Item]],
    limit: int,
) -> tuple[list[Item], Any, bool]:
    """The items, the last answer, and whether there are more. A node that repeats a token is read no further."""
    found: list[Item] = []
    token = ""
    while True:
        page = common_pb2.PageRequest(page_size=min(MAX_PAGE, limit - len(found)), page_token=token)
        request.page.CopyFrom(page)
        answer = client.call(method, request)
        found.extend(items_of(answer))
        following = answer.page.next_page_token
        if len(found) >= limit or not following or following == token:
            return found[:limit], answer, bool(following) or len(found) > limit
        token = following


def tell_more(more: bool) -> None:
    """Nobody should take a part for the whole."""
    if more:
        click.echo("there are more: raise --limit", err=True)
