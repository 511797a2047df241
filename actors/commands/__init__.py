"""The commands of `run.py`, and what all of them share.

* `arguments`      the command line: common options, and each command's own
* `effective_config`  the configuration that it names, with the options that override it
* `running_gateway`  requests to the gateway that runs on this machine
* `control`        those that act on it: `run.py ps | load | unload | logs | cancel`
* `reload`         `run.py reload`: the running gateway takes the configuration as it is now
* `plan`           `run.py plan` and `GET /admin/plan`: where a model would go, and what it would take
* `pull`, `models`, `remove`  `run.py pull | models | rm`
* `prompts`        `run.py prompts`: lists and deletes saved prompts
* `hub_names`      the model of a hub that an argument names
* `migrate`        the first version's config.json becomes a config.yaml; `agents.host.migrate` is the command
* `preflight`      what is known before a gateway serves: files, programs, devices that are not there
"""
