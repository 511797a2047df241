"""Brings a model's answer to its client.

Shared by all ways:

* `call`            the parsed request, the lease on its model, and the server's response
* `client_stream`   the stream to the client: head, comments, events, errors, end
* `relay`           copies bytes from the model server's socket to the client's
* `whole`           answers that are not streamed

The ways, each with a function `answer`, of which `handlers.generate` chooses one:

* `unchanged`       the server speaks the client's API: bytes are passed on
* `translate`       the server speaks another API: the answer is translated, event by event
* `embed`           embeddings
* `count`           the tokens of a prompt
* `load_only`       Ollama's requests that only load or unload a model
* `through_agents`  a request with agents

For agents:

* `agent_guards`    enforces guards on other endpoints
* `agent_calls`     the models, for calls by agents
"""
