"""How a model's answer reaches its client.

* `call`            the lease on a model, and the request to its server under it
* `client_stream`   answers whole, assembled, or relayed as they come
* `keep_alive`      comments for a stream that waits
* `relay`           bytes from the model server's socket to the client's
* `translate`       answers through events, where client and server do not speak the same API
* `through_agents`  answers of requests that have agents
* `agent_calls`     the models, as agents call them
"""
