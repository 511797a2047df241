"""From any API's words to any other's, pure: one chat request and one stream of events in the middle.

```
 client's body --> agents.chat.Chat | Completion --> server's body
 server's bytes --Decoder.feed--> events --Encoder.encode--> client's bytes
                                    |-> agents.events.Collector -> Answer --encode_answer--> a whole answer
```

So N clients and M servers take N + M translators, not N x M. A folder for each API:

* `openai`       chat (`request`, `answer`) and the older completions
* `anthropic`    messages
* `ollama`       `/api/chat`, `/api/generate`, and a daemon as a server
* `llama_cpp`    a llama.cpp server

What they share:

* `table`        which of them speaks for which endpoint, and for which kind of server
* `codec`        what every Decoder and Encoder can do
* `requests`     what is checked of a body before a model is loaded
* `fields`       JSON bodies into typed structs; `sampling`, `images` are parts of several
* `embeddings`   each API's embeddings, into each
* `assemble`     whole answers out of streams
* `endings`      whether a stream is whole
* `answer_json`  JSON of model servers, with one exception
* `dialects`     how each API words an error
* `failures`     an error's meaning, out of each server's words

A body that cannot be meant raises `fields.FieldError`, a ValueError that names the field. Whatever a model
server sends raises nothing but `proxy.wire.sse.EventTooLongError`: what cannot be read is an `AnswerFailed`.
"""
