"""The front door: HTTP in and out, each client's API, and the byte relay.

The rooms, along a request's way:

* `serve`        `run.py serve`: all of it put together, from the start to the last drain
* `app`          routes, and the one middleware: request id, error in the client's words, a line in the log
* `door`         what is checked of connections, origins and bodies before anybody works for them
* `handlers`     one module for a group of routes
* `answers`      how a model's answer reaches its client
* `apis`         pure. Each API's requests, answers and errors, to and from one canonical form
* `wire`         bytes: connections to model servers, HTTP, events, lines

What they share:

* `catalog`      which models there are, under which names, and what their servers speak
* `model_cards`  facts of a model's file, as clients see them
* `exchange`     one request and what became of it, accounted in one place
* `errors`       what goes wrong, as a client is told
* `metrics`      what Prometheus asks for
* `service`      the process around it: log, signals, the service manager

Who calls whom: `app` -> `handlers.generate`, which chooses a way of `answers` -> `answers.call` ->
`Supervisor.lease` and `wire.upstream`, then `answers.client_stream` -> `answers.relay` -> the client's
transport. The door knows the supervisor and its vocabulary; nothing below knows the door.
"""
