"""Agents: plugins that see a chat request and an LLM client, and never the web framework.

What they see is also what every API is translated through (`proxy.apis`):

* `chat`      the canonical request: messages, tools, sampling
* `events`    the canonical stream, and the whole answer made of one

What an author imports:

* `api`       `Agent`, `Context`, `Reply`, `Filter`, ...; `llm` and `errors` are parts of it
* `testing`   the test kit
* `files`     for those with a database: whether it is damaged, and setting it aside

`host` finds them, asks them and keeps them alive. The agents themselves are folders: `guard`, `cache`,
`parallel`, `vram`, `rag`. They see `api` alone.

Who calls whom: door -> `AgentHost.plan` -> `Run.before` -> each `Agent.before`; door -> `Run.feed` for each
event -> each filter; door -> `Run.finish` -> mailboxes -> `Agent.after`. Models are called through `llm.LLM`,
which the door implements.

This package keeps the middle floor of the house: `proxy` may import it, and it may import `actors`.
"""
