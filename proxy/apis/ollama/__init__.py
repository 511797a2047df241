"""Ollama's API, for clients and for Ollama daemons as model servers.

* `endpoints`               `/api/chat`, `/api/generate`, `/api/embed`; `SERVER`: a daemon as a model server
* `request`, `answer`       the reader of chat and generate requests, the writer of their answers
* `server`                  writes requests to a daemon, and reads its streams
* `context`                 the `context` of `/api/generate`, which a client sends back
* `repetition`              finds answers that a daemon ended because the model repeated itself
* `forced_call`             makes a daemon's model call a tool
* `client_errors`           writes an error for a client
* `server_errors`           reads a daemon's errors
* `body`, `stream`, `embeddings`  as in `proxy.apis`
"""
