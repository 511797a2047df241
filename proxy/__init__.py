"""The front door: HTTP in and out, dialects, and the byte relay.

The rooms, along a request's way:

* `connections`  what listens, how many clients there may be, and which of them have left
* `app`        routes, the one middleware (request id, error in its dialect, a line in the log)
* `origins`    which web pages may use the gateway, and under which names it is asked
* `bodies`     reading bodies: budget, pace, size; `encodings` and `json_bounds` (pure)
* `endpoints`  the table of endpoints: path, dialect, what is checked, how it is answered
* `requests`   what is checked of a body before a model is loaded
* `generate`   the way itself: check, lease, ask, answer as a stream or as a whole
* `catalog`    which models there are, under which names, and what their servers speak
* `asking`     the lease, and the question under it
* `answers`    whole, assembled or relayed; `translated`: through events, by the tables of `codecs` (pure)
* `translate/` each dialect to and from the canonical request and stream (pure)
* `passing`    any path of a model's own server, unchanged
* `upstream`   the model servers; `upstream_connection` one of its connections; `http1` what it reads (pure)
* `answer_json` what they say, or one exception; `endings` whether it is all (pure)
* `relay`      bytes from the upstream's socket to the client's
               `sse` and `ndjson` cut them (pure)
* `waiting`    comment lines for streams that wait
* `assemble`   whole answers out of streams (pure)
* `dialects`, `errors`  how each API words an error (pure)
* `exchange`   one request and what became of it, accounted in one place
* `views`      health and the list of models; `ollama`: the same for its clients, by `cards` of model files
* `readiness`  whether what the configuration needs outside is there
* `ollama_store`  Ollama's models come and go
* `service_manager`  what systemd is told
* `signals`    what TERM, INT and HUP do
* `metrics`    what Prometheus asks for
* `logs`       how the log is written; `log_writer` is the thread that writes it

Who calls whom: `app` -> `generate` -> `Supervisor.lease`, then `upstream` -> `relay` -> the client's
transport. The door knows the supervisor and its vocabulary; nothing below knows the door.
"""
