"""Answers that were given before, to the same request.

* `agent`   the agent: which requests are the same, and which answers are kept
* `store`   answers in SQLite, with an age
"""
