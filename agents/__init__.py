"""Agents: plugins that see a chat request and an LLM client, and never the web framework.

What they see is also what every dialect is translated through (`proxy.translate`):

* `chat`         the canonical request: messages, tools, sampling
* `events`       the canonical stream, and the whole answer made of one

What an author imports:

* `api`          `Agent`, `Context`, `Reply`, `Filter`, ...; `llm` and `errors` are parts of it
* `testing`      the test kit

What those with a database use beside it:

* `files`        whether a database is damaged, and setting it aside

How they are found, asked and kept alive:

* `settings`, `discovery`  the section `agents` of config.yaml; folders and entry points, and what is broken
* `commands`     pure. Slash commands, in a message and in the bytes of a body
* `host`         all of them: which a request has, what they offer beside it (`operations`), what they are
* `pipeline`     one request's way: `before`, the filters of its answer, `after`
* `guarded`      what agents ask of models, through the guards
* `supervision`  one actor per agent: limits, crashes, restarts, the work after a request
* `command_line` `run.py agents`
* `arguments`    the command line of `run.py`: its commands and their options
* `check`        `run.py check`, and what `serve` looks at before it starts

Who calls whom: door -> `AgentHost.plan` -> `Run.before` -> each `Agent.before`; door -> `Run.feed` for each
event -> each filter; door -> `Run.finish` -> mailboxes -> `Agent.after`. Models are called through `llm.LLM`,
which the door implements.

The agents are folders: `guard`, `cache`, `parallel`, `vram`, `rag`. They see `api` alone.
This package keeps the middle floor of the house: `proxy` may import it, and it may import `actors`.
"""
