"""The commands of `run.py` that need no gateway.

* `plan`       `run.py plan` and `GET /admin/plan`: where a model would go, and what it would take
* `hub`        `run.py pull | models | rm`
* `migrate`    `run.py migrate`: the first version's config.json becomes a config.yaml
* `preflight`  what is known before a gateway serves: files, programs, devices that are not there
"""
