"""Anthropic's messages, as clients speak them.

* `endpoints`          `/v1/messages` and its `count_tokens`
* `request`, `answer`  read from a client, and written for one
* `blocks`, `tools`    parts of a request: messages with blocks of any kind, tools of any kind
* `models`             the list of models
* `client_errors`      as in `proxy.apis`, like `body`
"""
