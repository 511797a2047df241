"""The control plane: who runs, who waits, who yields. Knows nothing of HTTP clients or dialects.

The nouns, from the outside in:

* `supervisor.Supervisor`  the actor that owns the planner. The front door asks it for a *lease*; it
  performs the planner's effects and tells the model actors what to do.
* `model.ModelActor`       one actor per model. Owns the process of its server: starts it, waits until
  it is healthy, relays its log, stops it, reports facts. Holds no requests.
* `liveness`               whether a server that runs still answers; one that hangs is ended and started anew.
* `planner.Planner`        pure. `handle(event, now) -> effects`: who is granted, what is started and stopped.
* `allocator`, `ledger`    pure. Where a model goes, who makes room for it, and who has what memory.
* `roster`, `waiting`      pure. What the planner knows of each model and each waiting request.
* `lifecycle`              pure. The one table of a model's states.
* `backends`               how a server comes to run: a llama-server binary, the embedded one, a container.
* `docker`                 containers through the Docker Engine's API: their start, their end, their removal.
* `hub`                    models by repository: names, downloads, the cache.
* `gguf`                   headers of model files: what a model is and needs.
* `memory`, `demand`, `placement`  pure. What a model will take, in which ways it can run, where one fits.
* `promotion`              pure. When a model that runs in a worse way is moved to a better place.
* `observer`, `gpu`, `calibration`  what is measured of the GPUs and of each load, and what was learned;
                           `calibration_file` is the database of that, `host_memory` what else is measured.
* `settings`               config.yaml becomes a `Config`: all faults by line, secrets masked.
* `preflight`              what is known at the start: files, programs, devices that are not there.
* `plan`, `explain`        `run.py plan` and `/admin/plan`.
* `migrate`                `run.py migrate`: the first version's config.json becomes a config.yaml.
* `folders`                whether what must be written to can be.
* `demo`                   writes the demo GGUFs, whose weights are made by hand.
* `terminal`               what commands print, and their exit status.
* `processes`              which processes belong to which gateway and which of its children.
* `runtime`                the actor's mailbox loop, and `spawn`, the only way to start a task.
* `messages`, `errors`, `config`  leaves: the vocabulary, the values that say no, the schema of the settings.

Who calls whom: door -> `Supervisor.lease` -> mailbox -> planner -> effects -> `ModelActor.tell`;
model actor -> `Supervisor.tell(Fetched | BecameReady | Exited)` -> planner. Tokens never pass through here:
a grant carries an endpoint, and the door speaks to it directly.
"""
