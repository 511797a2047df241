"""OpenAI's API, as clients speak it; the others may know it, for a llama.cpp server speaks all of them.

* `endpoints`              chat, older completions, embeddings, reranking
* `request`, `answer`      chat, read from a client and written for one; `completion` is both for older ones
* `client_errors`          how a client is told of an error
* `server_errors`          a llama.cpp server's errors, read
* `chat_body`              a chat's body: what is checked of it, and what llama.cpp takes in another form only
* `tool_choice`            which tools may be called, and whether one must be
* `embeddings`             as in `proxy.apis`, like `body` and `stream`
"""
