"""From any API's words to any other's, pure: one chat request and one stream of events in the middle.

```
 client's body --> agents.chat.Chat | Completion --> server's body
 server's bytes --Decoder.feed--> events --Encoder.encode--> client's bytes
                                    |-> AnswerCollector -> Answer --encode_answer--> a whole answer

 a server's error --server_errors--> agents.events.AnswerFailed --client_errors--> the client's words
```

So N clients and M servers take N + M translators, not N x M. A folder for each API: `openai`, `responses`,
`anthropic`, `ollama`, `llama_cpp`. In each of them, as far as it has clients, servers or both:

* endpoints      `API`: the paths, and which of the following answer them; what `table` collects
* body           what is checked of a client's body before a model is loaded
* request        a client's body, read as a whole
* answer         a client's answer, written in pieces or as a whole
* client_errors  how a client is told of an error
* server         a model server's bodies, written, and its streams, read
* server_errors  a model server's errors, read
* stream         how a stream ends, and the whole answer in it, where nothing is translated
* embeddings     of clients and of servers

An error of an Ollama daemon becomes an Anthropic one in `ollama.server_errors` and `anthropic.client_errors`.
What all of them share:

* `table`        which APIs there are
* `interface`    what an API consists of: endpoints, codecs, dialects, servers
* `requests`     reading and checking a body, and setting fields in it
* `fields`       JSON bodies into typed structs; `sampling`, `images`, `durations` are parts of several
* `embeddings`   a request for embeddings and its answer, between the APIs
* `assemble`     whole answers out of streams
* `stream_end`   whether a stream is whole
* `answer_json`  JSON of model servers, with one exception
* `server_errors`  what a model server did wrong, between the APIs

A body that cannot be meant raises `fields.FieldError`, a ValueError that names the field. Whatever a model
server sends raises nothing but `proxy.wire.sse.EventTooLongError`: what cannot be read is an `AnswerFailed`.
"""
