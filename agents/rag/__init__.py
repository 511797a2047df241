"""Retrieval for `/rag`: documents in, numbered sources out. No HTTP; models come in as protocols.

The nouns, in the order in which a document meets them:

* `documents.parse`      pure. Bytes and a name become a text with a structure, or a `DocumentError`.
* `formats`              pure. What it uses: plain text, Markdown, HTML, PDF, code.
* `chunks.chunk`         pure. That text becomes chunks: spans of it, with the headings they stand under.
* `reader.Reader`        both of them in a child process, with limits, since documents may be hostile.
* `passage`              pure. What retrieval is about: an excerpt of a document, and where it stands.
* `index.Index`          SQLite. Collections, documents, chunks, vectors; one transaction per document.
* `schema`               its tables; `trouble`: what SQLite says when the file is no good.
* `search.Searcher`      the same database, read: BM25 by FTS5, cosine by numpy.
* `embedding.Embedding`  an embedding model that may be absent, may fail, and may come back.
* `ingest.Ingester`      documents and folders into the index, what changed only; vectors after the words.
* `folders`              which files of a folder are documents.
* `vanished`             which documents stay though their files are gone.
* `watch.watch`          a folder, ingested whenever it changes.
* `library.Library`      all of these for a gateway: opened, kept in step, and begun anew when damaged.
* `retrieve.Retriever`   a question's passages: both searches, fused, filtered, reranked.
* `prompt.build_prompt`  pure. Passages become numbered sources within a budget, and citations.

* `agent`                the agent: options, requests, operations; `bodies`: what these bring.
* `command_line`         `run.py rag`.

    index = await asyncio.to_thread(Index, path)
    embedding = Embedding(embedder)             # or Embedding(None): words only
    await Ingester(index, embedding).add_folder(folder, "docs", on_progress=print)
    passages = await Retriever(Searcher(index), embedding).retrieve("How do I ...?", ["docs"])
    prompt = build_prompt(passages, budget=8000)
"""
