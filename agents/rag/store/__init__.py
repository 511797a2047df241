"""The index, an SQLite database.

* `index`   collections, documents, chunks, vectors; one transaction per document
* `search`  the same database, read: BM25 by FTS5, cosine by numpy
* `schema`  its tables, and what SQLite says when the file is no good
"""
