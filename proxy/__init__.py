"""The front door: HTTP in and out, each client's API, and the byte relay.

The packages, along a request's way:

* `serve`        `run.py serve`: builds all parts and runs them until the shutdown
* `reload`       applies a changed configuration to the running parts
* `app`          routes, and the one middleware: request id, error in the client's words, a line in the log
* `openapi`      `/openapi.json`: all routes, with the schemas of bodies and answers
* `door`         checks connections, origins and bodies before any other work
* `handlers`     one module for a group of routes
* `admin`        the operator's routes, below `/admin`
* `doctor`       `run.py doctor`: what works on this machine, what does not, and the cure
* `page`         the web page
* `answers`      brings a model's answer to its client
* `prompts`      restores the saved prompt of a request, before it is sent
* `apis`         pure: each API's requests, answers and errors, to and from one canonical form
* `wire`         bytes: connections to model servers, HTTP, events, lines

Shared by them:

* `catalog`      the models, their names, and the APIs of their servers
* `model_cards`  facts of a model's file, as clients see them
* `parameters`   pure: the parameters of requests that a model's settings give
* `access`       API keys: who may use what, and how much
* `usage`        what was used: a row for each request
* `exchange`     the facts of one request, for the log and the metrics
* `running`      the requests that are running or waiting, by id
* `errors`       errors as clients see them
* `metrics`      the metrics for Prometheus
* `service`      the process: log, signals, the service manager

Who calls whom: `app` -> `handlers.generate`, which chooses a way of `answers` -> `answers.call` ->
`Supervisor.lease` and `wire.upstream`, then `answers.client_stream` -> `answers.relay` -> the client's
transport. The front door knows the supervisor and its messages; nothing below knows the front door.
"""
