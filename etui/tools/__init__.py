"""Tools that a model may call: those of MCP servers, and a few of etui's own."""
