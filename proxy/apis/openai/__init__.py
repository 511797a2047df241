"""OpenAI's API, as clients speak it.

* `endpoints`              chat, older completions, Responses, embeddings, reranking
* `request`, `answer`      chat, read from a client and written for one; `completion` is both for older ones
* `responses`              the Responses, which are passed on as they are
* `embeddings`, `errors`   as in `proxy.apis`, like `body` and `stream`
"""
