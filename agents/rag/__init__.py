"""Retrieval for `/rag`: turns documents into numbered sources. No HTTP; models are passed in as protocols.

The packages, in the order in which a document passes them:

* `reading`    splits a document's bytes into chunks, in a child process, since documents may be hostile
* `indexing`   puts documents and folders into the index, only changes, and whenever they change
* `store`      the SQLite database of documents, chunks, words and vectors, and its searches
* `asking`     finds passages for a question, and makes numbered sources of them

Shared by them:

* `passage`    pure: an excerpt of a document, with its place
* `embedding`  an embedding model that may be absent, fail, and come back
* `trouble`    logs once that something fails, and once that it works again

Above them:

* `library`       the index of a gateway: opened, kept up to date, and replaced when damaged
* `agent`         the agent: options, requests, operations; `bodies` reads their bodies
* `command_line`  `run.py rag`

    index = await asyncio.to_thread(Index, path)
    embedding = Embedding(embedder)             # or Embedding(None): words only
    await Ingester(index, embedding).add_folder(folder, "docs", on_progress=print)
    passages = await Retriever(Searcher(index), embedding).retrieve("How do I ...?", ["docs"])
    prompt = build_prompt(passages, budget=8000)
"""
