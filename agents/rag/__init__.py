"""Retrieval for `/rag`: documents in, numbered sources out. No HTTP; models come in as protocols.

The rooms, in the order in which a document meets them:

* `reading`    a document's bytes become chunks, in a child process, since documents may be hostile
* `indexing`   documents and folders go into the index, what changed only, and whenever it changes
* `store`      SQLite: documents, chunks, words and vectors, written and searched
* `asking`     a question becomes passages, and passages become numbered sources

What they share:

* `passage`    pure. What retrieval is about: an excerpt of a document, and where it stands
* `embedding`  an embedding model that may be absent, may fail, and may come back
* `trouble`    says that something fails, once, and that it works again

Above them:

* `library`       all of these for a gateway: opened, kept in step, and begun anew when damaged
* `agent`         the agent: options, requests, operations; `bodies`: what these bring
* `command_line`  `run.py rag`

    index = await asyncio.to_thread(Index, path)
    embedding = Embedding(embedder)             # or Embedding(None): words only
    await Ingester(index, embedding).add_folder(folder, "docs", on_progress=print)
    passages = await Retriever(Searcher(index), embedding).retrieve("How do I ...?", ["docs"])
    prompt = build_prompt(passages, budget=8000)
"""
