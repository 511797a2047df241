"""The commands of `run.py` that act on the gateway that runs, by its routes below `/admin`.

* `ps`      what runs and waits
* `load`    loads a model, and waits until it is loaded
* `unload`  unloads a model, or all
* `logs`    the latest lines of the gateway's log or of a model's server, and those to come
* `cancel`  ends a request
"""
