"""Agents: plugins around a chat request. They see the request and an LLM client, but no web framework.

Their view of a request is the canonical form through which `proxy.apis` translates every API:

* `chat`      the canonical request: messages, tools, sampling
* `events`    the canonical stream, and the whole answer made of one
* `answer_tool`  both, for a request with tools and a format, which no model server knows together

What an author imports:

* `api`       `Agent`, `Context`, `Reply`, `Filter`, ...; `llm` and `errors` are parts of it
* `testing`   the test kit
* `files`     for agents with a database: detects a damaged file and sets it aside; `database` is one

`host` finds agents, calls them and restarts them. Each agent is a folder: `guard`, `cache`, `parallel`,
`vram`, `rag`. Agents import `api` alone.

Who calls whom: door -> `AgentHost.plan` -> `Run.before` -> each `Agent.before`; door -> `Run.feed` for each
event -> each filter; door -> `Run.finish` -> mailboxes -> `Agent.after`. Models are called through `llm.LLM`,
which the door implements.

This package is the middle layer: `proxy` may import it, and it may import `actors`.
"""
