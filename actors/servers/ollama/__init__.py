"""Ollama daemons and their models.

* `backend`  a model in a daemon: its files, its memory, its start
* `server`   a loaded model in a daemon, as the model actor uses it
* `daemons`  all daemons, and which of them has which model
* `daemon`   watches one daemon: whether it is there, and which models it runs
* `memory`   pure: predicts a model's memory from the daemon's description
* `client`   a daemon's HTTP API
"""
