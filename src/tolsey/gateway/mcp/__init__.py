"""MCP: one endpoint in front of several servers, whose calls go through the passage like any other."""
