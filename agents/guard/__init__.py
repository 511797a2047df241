"""Patterns that may not be asked, or answered: refused, or made unreadable.

* `agent`    the agent: options, requests, and the filter of an answer
* `cleaner`  whole texts, and all of a request
* `scanner`  pure: finds patterns in a text that comes in pieces, and holds back no more than it must
* `strings`  pure: every string in JSON, in values and in texts
"""
