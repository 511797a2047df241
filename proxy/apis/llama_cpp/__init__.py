"""A llama.cpp `server`, and the endpoints that only it has.

* `endpoints`               `/completion`, `/infill`, tokens, templates; and what a server is asked
* `server`                  what a server is sent, and what its streams say
* `failures`, `embeddings`  as in `proxy.apis`, like `body` and `stream`
"""
