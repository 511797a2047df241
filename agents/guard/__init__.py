"""The guard: refuses or redacts text that matches patterns, in requests and in answers.

* `agent`    the agent: options, requests, and the filter of an answer
* `cleaner`  redacts whole texts, and every text of a request
* `scanner`  pure: finds patterns in a text that arrives in pieces, holding back as little as possible
* `strings`  pure: redacts every string in JSON values and in JSON text
"""
