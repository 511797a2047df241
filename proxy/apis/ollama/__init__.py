"""Ollama's API, of clients and of daemons.

* `request`, `answer`  `/api/chat` and `/api/generate`, read from a client and written for one
* `server`             a daemon: what it is sent, and what its streams say
* `durations`          keep_alive
"""
