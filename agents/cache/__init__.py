"""The cache: repeats earlier answers to identical requests.

* `agent`   the agent: which requests count as identical, and which answers are stored
* `store`   answers in SQLite, with their age
"""
