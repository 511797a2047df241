"""Checks requests before any other work.

* `connections`        listens, and limits the number of clients
* `client_connection`  one client's connection: limits, slow readers, and clients that have left
* `certificate`        the certificate of `server.tls`, taken anew when its files change
* `parsing`            completes aiohttp's parser: paths, versions, unreadable requests
* `origins`            decides which web pages may use the gateway, and under which host names
* `bodies`             reads bodies: budget, pace, size
* `tap`                captures a request and what is written to its client
* `encodings`          pure: compressed bodies
* `json_bounds`        pure: limits the contents of a JSON text before it is decoded
"""
