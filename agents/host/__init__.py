"""How agents are found, asked and kept alive.

* `host`          all of them: which a request has, what they offer beside it, what they are
* `pipeline`      one request's way: `before`, the filters of its answer, `after`
* `guarded`       what agents ask of models, through the guards
* `supervision`   one actor per agent: limits, crashes, restarts, the work after a request
* `discovery`     folders and entry points that have agents, and what is broken
* `settings`      pure. The section `agents` of config.yaml
* `commands`      pure. Slash commands, in a message and in the bytes of a body
* `operations`    what an agent offers beside requests

Commands of `run.py` that know of agents:

* `check`         `run.py check`, and what `serve` looks at before it starts
* `command_line`  `run.py agents`
* `migrate`       `run.py migrate`
"""
