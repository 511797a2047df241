"""Anthropic's Messages API, for clients. No model server is asked in it.

* `endpoints`          `/v1/messages` and its `count_tokens`
* `request`, `answer`  the reader of requests, the writer of answers
* `blocks`, `tools`    read parts of a request: messages with blocks of any kind, tools of any kind
* `models`             writes the list of models
* `client_errors`      as in `proxy.apis`, like `body`
"""
