"""Bytes: connections to model servers, HTTP, events and lines.

* `upstream`             the pool of connections, and each server's state as seen through them
* `upstream_connection`  one connection and its response
* `http1`                pure: a response's head and the framing of its body
* `sse`, `ndjson`        pure: events and lines, however their bytes are cut
* `trace_context`        pure: the headers of the trace that a request belongs to
"""
