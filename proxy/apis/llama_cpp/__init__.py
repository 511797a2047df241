"""llama.cpp's API: a `llama-server` as a model server, and its own endpoints for clients.

* `endpoints`   `/completion`, `/infill`, tokens, templates; and `SERVER`, llama.cpp as a model server
* `server`      writes requests to a server, and reads its streams
* `embeddings`  as in `proxy.apis`, like `body` and `stream`

Its errors are OpenAI's, with types of its own: `openai.server_errors` reads them, `openai.client_errors`
writes them.
"""
