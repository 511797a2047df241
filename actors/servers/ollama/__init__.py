"""Ollama daemons, as seen from outside.

* `backend`  a model in one: its files, what it takes, its start
* `server`   a model in one, as the model actor drives it
* `daemons`  all of them, and who has which model
* `daemon`   one of them over time: whether it is there, what it runs, and who is told when that changes
* `memory`   pure: what a model will take, by what the daemon tells of it
* `client`   what is asked of one over HTTP, and what it answers
"""
