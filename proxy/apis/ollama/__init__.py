"""Ollama's API, of clients and of daemons.

* `endpoints`               `/api/chat`, `/api/generate`, `/api/embed`; and what a daemon is asked
* `request`, `answer`       the first two, read from a client and written for one
* `server`                  a daemon: what it is sent, and what its streams say
* `context`                 what `/api/generate` gives a client to send again
* `repetition`              answers that a daemon ends because the model repeats itself
* `forced_call`             a daemon's model that must call a tool
* `client_errors`           how a client is told of an error
* `server_errors`           a daemon's errors, read
* `body`, `stream`, `embeddings`  as in `proxy.apis`
"""
