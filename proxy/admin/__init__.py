"""The routes below `/admin`, for the operator. `proxy.app` lets only admin keys through.

* `routes`  what a route is: its path, handler, and the structs of its query, body and answer
* `plan`    `/admin/plan`: where a model would go
* `configuration`  `/admin/config`, `/admin/reload`, `/admin/drain`
* `doctor`  `/admin/doctor`: what works on this machine, what does not, and the cure
* `control` `/admin/models/{id}/...`: loads, unloads, pins, resets and deletes a model
* `hub`     `/admin/hub`: searches the hub, predicts what its models would take, downloads them
* `keys`    `/admin/keys`: lists, makes, rotates and revokes API keys
* `logs`    `/admin/logs`: the lines of the gateway and of model servers
* `other_routers`  what tools for llama-swap and llama.cpp's router ask for
* `live`    the present state and its changes: models, requests, events
* `usage`   `/admin/usage`, `/admin/activity`, and `/v1/usage`, which each key may ask for
"""
