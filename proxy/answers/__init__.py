"""How a model's answer reaches its client.

What all ways share:

* `call`            the request, as its handler has read it; the lease on its model, and the response
* `client_stream`   the stream to the client: head, comments, events, errors, end
* `relay`           bytes from the model server's socket to the client's
* `whole`           answers that are no stream

The ways, each with a function `answer`, of which `handlers.generate` chooses one:

* `unchanged`       the server speaks the client's API
* `translate`       it speaks another one: through events
* `embed`           vectors
* `load_only`       no answer, but a model that is loaded, or gone
* `through_agents`  the request has agents

Around agents:

* `agent_guards`    what they forbid
* `agent_calls`     the models, as agents call them
"""
