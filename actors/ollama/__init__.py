"""Ollama daemons, as seen from outside.

* `client`  what is asked of one over HTTP, and what it answers
* `daemon`  one of them over time: whether it is there, what it runs, and who is told when that changes
* `daemons` all of them, and who has which model
* `server`  a model in one, as the model actor drives it
* `memory`  pure: what a model will take, by what the daemon tells of it

The backend is `actors.backends.ollama`.
"""
