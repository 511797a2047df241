"""OpenAI's Responses, as clients speak them. No model server does: every backend is asked for a chat instead.

* `request`        a body, read as a chat; `items` is its history, `content` what is in one item
* `tools`          the tools that a client runs itself, as functions that any model can call; `calls` of them
* `answer`         the stream and the whole response; `output` is its items, `response` the object around them
* `kept`           requests that refer to responses which are kept, and lists of their items
* `client_errors`  as in `proxy.apis`, like `body` and `endpoints`
"""
