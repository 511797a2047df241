"""Finds agents, calls them, and restarts them.

* `host`          all agents: starts them, selects those of a request, calls their operations
* `pipeline`      one request's way through its agents: `before`, the filters of its answer, `after`
* `guarded`       agents' calls of models, through the guards
* `supervision`   one actor per agent: time limits, crashes, restarts, the work after a request
* `discovery`     finds agents in folders and entry points, and reports broken ones
* `settings`      pure: the section `agents` of config.yaml
* `commands`      pure: slash commands, in a message and in the bytes of a body
* `operations`    the HTTP endpoints of agents

Commands of `run.py` that use agents:

* `check`         `run.py check`, and the checks of `serve` before it starts
* `command_line`  `run.py agents`
* `migrate`       `run.py migrate`
"""
