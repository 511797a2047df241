"""From any API's words to any other's, pure: one chat request and one stream of events in the middle.

```
 client's body --> agents.chat.Chat | Completion --> server's body
 server's bytes --Decoder.feed--> events --Encoder.encode--> client's bytes
                                    |-> agents.events.Collector -> Answer --encode_answer--> a whole answer
```

So N clients and M servers take N + M translators, not N x M.

* `agents.chat`, `agents.events`  the canonical request, stream and answer, which agents see too
* `codec`       what every Decoder and Encoder can do; `sampling`  the options that most dialects name alike
* clients       `ollama_request` and `ollama_answer` (`/api/chat`, `/api/generate`), `openai_request` and
  `openai_answer` (`/v1/chat/completions`), `anthropic_request` and `anthropic_answer` (`/v1/messages`)
* servers       `llama_server` and `ollama_server`: what each is sent, and what its streams say
* `embeddings`  `/api/embed`, `/api/embeddings` and `/v1/embeddings`, each into each
* `failures`    an error's meaning, out of each server's words
* `wire`, `images`, `durations`  bodies into typed structs, pictures, keep_alive

A body that cannot be meant raises `wire.FieldError`, a ValueError that names the field. Whatever a model
server sends raises nothing but `proxy.sse.EventTooLongError`: what cannot be read is a `Failure`.
"""
