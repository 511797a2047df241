"""OpenAI's API: requests of clients, answers to clients, and errors of model servers.

The folders of other APIs may import this one, because a llama.cpp server speaks OpenAI's API too.

* `endpoints`              chat, older completions, embeddings, reranking
* `request`, `answer`      the reader of chat requests, the writer of chat answers
* `completion`             reader and writer of the older completions
* `client_errors`          writes an error for a client
* `server_errors`          reads the errors of a llama.cpp server
* `chat_body`              a chat's body: its checks, and the fields that llama.cpp needs in another form
* `tool_choice`            reads which tools a model may call, and whether it must call one
* `models`                 writes the list of models
* `embeddings`             as in `proxy.apis`, like `body` and `stream`
"""
