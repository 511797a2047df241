"""Anthropic's messages, as clients speak them.

* `endpoints`          `/v1/messages` and its `count_tokens`
* `request`, `answer`  read from a client, and written for one
* `client_errors`             as in `proxy.apis`, like `body` and `stream`
"""
