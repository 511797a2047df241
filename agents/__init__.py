"""Agents: plugins that see a chat request and an LLM client, and never the web framework.

What they see is also what every dialect is translated through (`proxy.translate`):

* `chat`    the canonical request: messages, tools, sampling
* `events`  the canonical stream, and the whole answer made of one

The gateway has no agents yet, so the `agents:` section of the configuration must be empty.
This package keeps the middle floor of the house: `proxy` may import it, and it may import `actors`.
"""
