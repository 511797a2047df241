"""Measures the gateway beside nginx and no proxy at all, in one run on one machine.

* `upstream`  a stand-in for llama-server whose tokens come at a fixed pace and carry the time
* `load`      the client: many streams, or many short requests, on raw connections
* `__main__`  starts all of it, measures, prints the table: `python -m tests.bench` or `make bench`
"""
