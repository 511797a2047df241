"""Translates between the APIs of clients and of model servers, through one canonical form. Pure.

```
 client's body --> agents.chat.Chat | Completion --> server's body
 server's bytes --Decoder.feed--> events --Encoder.encode--> client's bytes
                                    |-> AnswerCollector -> Answer --encode_answer--> a whole answer

 a server's error --server_errors--> agents.events.AnswerFailed --client_errors--> the client's words
```

So N APIs of clients and M of servers take N + M translators, not N x M. Each API has a folder: `openai`,
`responses`, `anthropic`, `ollama`, `llama_cpp`. It has these modules, as far as the API has clients, model
servers or both:

* endpoints      `API`: the paths, and the codecs that answer them; `table` collects it
* body           checks a client's body before a model is loaded
* request        reads a client's body completely, as a canonical request
* answer         writes an answer for a client, as a stream or as a whole
* client_errors  writes an error for a client
* server         writes requests to a model server, and reads its streams
* server_errors  reads a model server's errors
* stream         finds the end of a stream that is not translated, and assembles the whole answer from it
* embeddings     reads and writes requests and answers of embeddings

An error of an Ollama daemon becomes an Anthropic one in `ollama.server_errors` and `anthropic.client_errors`.
Shared modules:

* `table`        lists all APIs
* `interface`    the types of an API's parts: endpoints, codecs, dialects, servers
* `requests`     parses and checks bodies, and sets fields in them
* `fields`       decodes JSON bodies into structs; `sampling`, `images`, `durations` are parts of several APIs
* `embeddings`   the canonical request for embeddings, and its answer
* `assemble`     common parts of the assemblers that make whole answers from streams
* `stream_end`   whether a stream is complete
* `answer_json`  decodes JSON of model servers; raises one exception
* `server_errors`  the canonical errors of model servers

An invalid body raises `fields.FieldError`, a ValueError that names the field. Bytes of a model server raise
nothing but `proxy.wire.sse.EventTooLongError`: unreadable data becomes an `AnswerFailed`.
"""
