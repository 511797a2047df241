"""Agents: plugins that see a chat request and an LLM client, and never the web framework.

The gateway has no agents yet, so the `agents:` section of the configuration must be empty.
This package keeps the middle floor of the house: `proxy` may import it, and it may import `actors`.
"""
