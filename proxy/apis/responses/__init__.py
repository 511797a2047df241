"""OpenAI's Responses API, for clients. No model server has it: each is asked for a chat instead.

* `request`        reads a body as a chat; `items` reads its history, `content` the parts of one item
* `tools`          offers the tools that a client runs as functions that any model can call
* `calls`          turns a model's function calls into items for those tools, and back
* `answer`         writes the stream and the whole response: `output` the items, `response` the rest of it
* `kept`           resolves references to stored responses, and lists their items
* `client_errors`  as in `proxy.apis`, like `body` and `endpoints`
"""
