"""The control plane: who runs, who waits, who yields. Knows nothing of HTTP clients or their APIs.

Shells, from the outside in:

* `commands`     `run.py pull | models | rm | plan | migrate`, and what `check` finds on this machine
* `build`        the supervisor, and an actor for each model, made of the settings
* `supervisor`   the actor that owns the planner. The front door asks it for a *lease*; it performs the
                 planner's effects and tells the model actors what to do.
* `model_actor`   one actor per model. It owns the model's server: starts it, waits until it is healthy,
                 watches it, stops it, reports facts. Holds no requests.
* `servers`      how a server comes to run: a process, a container, a model in an Ollama daemon
* `prompts`      saves what models have read, when they stop, and restores it
* `hub`          models by repository: lists, downloads, the cache
* `demo`         writes the demo GGUFs, whose weights are made by hand

Decisions and knowledge:

* `scheduler`    pure. Who is granted, what is started and stopped, where a model goes, who makes room
* `gpu`          what is measured of the GPUs and of each load, and what was learned
* `placement`    pure. The ways to run a model, where one fits, who has what memory
* `memory`       pure. What a model will take, in bytes per device
* `config`       the schema of config.yaml, and how the file is read: all faults by line, secrets masked

Leaves:

* `messages`, `errors`  the vocabulary, the values that say no
* `runtime`      the actor's mailbox loop, and `spawn`, the only way to start a task
* `model_names`  what `org/repo:variant` means, and which files of a repository
* `progress`     how far a download is
* `kept_lines`   the latest lines of a log, in memory
* `processes`    which processes belong to which gateway and which of its children
* `folders`      whether what must be written to can be
* `terminal`     what commands print, and their exit status

Who calls whom: door -> `Supervisor.lease` -> mailbox -> planner -> effects -> `ModelActor.tell`;
model actor -> `Supervisor.tell(Fetched | BecameReady | Exited)` -> planner. Tokens never pass through here:
a grant carries an endpoint, and the door speaks to it directly.
"""
