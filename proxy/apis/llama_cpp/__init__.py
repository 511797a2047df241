"""A llama.cpp `server`, and the endpoints that only it has.

* `endpoints`   `/completion`, `/infill`, tokens, templates; and what a server is asked
* `server`      what a server is sent, and what its streams say
* `embeddings`  as in `proxy.apis`, like `body` and `stream`

Its errors are OpenAI's, with types of its own: `openai.server_errors` reads them, `openai.client_errors`
writes them.
"""
