"""The supervisor's decisions. All of it is pure: events in, effects out, no clock, no I/O.

* `planner`    `handle(event, now) -> effects`: who is granted, what is started and stopped
* `allocator`  where a model goes, and who makes room for it
* `promotion`  when a model that runs in a worse way is moved to a better place
* `model_states`  what the planner knows of each model, and its policy
* `tickets`    everybody who waits, by number and by deadline
* `lifecycle`  the one table of a model's states
* `explain`    a decision in figures and words

The docstrings of `planner` and `allocator` list their rules; README.md has the reasons.
"""
