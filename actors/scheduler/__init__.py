"""The supervisor's decisions. All of it is pure: events in, effects out, no clock, no I/O.

* `planner`    `handle(event, now) -> effects`: grants leases, starts and stops models
* `allocator`  chooses a model's place, and which models make room for it
* `promotion`  when a model in a worse place is moved to a better one
* `model_states`  the planner's state of each model, and its policy
* `measuring`  what is reported and learned of a load's memory
* `estimates`  when waiting requests will have their turn
* `tickets`    all waiting requests, by number and by deadline
* `lifecycle`  the table of a model's states
* `explain`    a decision in figures and words
* `loading`    what a waiting user reads of it

The docstrings of `planner` and `allocator` list their rules; README.md has the reasons.
"""
