"""The Model Context Protocol's own Python client."""

import asyncio

import httpx
import pytest

pytest.importorskip("mcp")

from mcp import ClientSession  # noqa: E402
from mcp.client.streamable_http import streamable_http_client  # noqa: E402


def with_session(base, token, use):
    """Runs a coroutine function on an initialized session."""

    async def run():
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as http:
            async with streamable_http_client(f"{base}/mcp", http_client=http) as streams:
                async with ClientSession(streams[0], streams[1]) as session:
                    await session.initialize()
                    return await use(session)

    return asyncio.run(run())


def test_every_function_is_a_tool(base, token):
    async def use(session):
        return await session.list_tools()

    tools = {tool.name: tool for tool in with_session(base, token, use).tools}
    assert {"hello", "reporter", "failing"} <= tools.keys()


def test_a_tool_is_called(base, token):
    async def use(session):
        return await session.call_tool("hello", {"name": "Ada"})

    result = with_session(base, token, use)
    assert result.content[0].text == "Hello, Ada!"


def test_a_failure_is_told_to_the_model(base, token):
    async def use(session):
        return await session.call_tool("failing", {})

    assert "wanted 3" in with_session(base, token, use).content[0].text
