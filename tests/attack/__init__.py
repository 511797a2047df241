"""Attacks on a running gateway: `make attack`, five minutes on two cores, a table at the end.

* `ground`        the gateway under attack, and a bystander whose stream must not stop
* `bystander`     the stream, in a process of its own, beside one that does not pass the gateway
* `fault_server`  a model server that answers as it is told to, mostly wrongly; `streams` has the pieces
* `odd_streams`   answers that are whole although they look like none
* `answers`       every wrong answer, on every API, streamed and whole
* `clients`       what HTTP allows and few do: pipelined, half closed, in single bytes, and leaving
* `floods`        bodies that are too large, too slow, too deep, too many
* `pages`         what a web page of a stranger can send
* `sinks`         standard outputs that do not take the log
* `servers`       model servers that hang, and that flood their log; clients that read slowly; shared ports
* `disks`         a file system without room under the gateway's folders
* `schema`        requests made from /openapi.json, whose answers must be as it says
* `fuzz`          seeded mutations: `fuzz_requests` made of `odd_requests`, and `fuzz_readers` by `mutations`
"""
