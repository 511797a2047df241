"""What is checked before anybody works for a request.

* `connections`        what listens, and how many clients there may be
* `client_connection`  one client's connection, and whether the client has left
* `parsing`            what aiohttp's parser leaves open, and requests that it cannot read
* `origins`            which web pages may use the gateway, and under which names it is asked
* `bodies`             reading bodies: budget, pace, size
* `encodings`          pure. Bodies that come compressed
* `json_bounds`        pure. How much a JSON text holds, before anything decodes it
"""
