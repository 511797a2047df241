"""A MCP server with one tool, for clients that take tools only so."""

from mcp.server import MCPServer

server = MCPServer("weather")


@server.tool()
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"21 degrees in {city}"


server.run()
