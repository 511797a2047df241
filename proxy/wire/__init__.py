"""Bytes: connections to model servers, and what comes over them.

* `upstream`             the pool of connections, and what is known of each server by them
* `upstream_connection`  one connection, and the response that is read from it
* `http1`                pure. A response's head and the framing of its body
* `sse`, `ndjson`        pure. Events and lines, however they are cut
"""
