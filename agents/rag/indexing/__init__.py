"""Documents go into the index.

* `ingest`    documents and folders, what changed only; vectors after the words
* `folders`   which files of a folder are documents
* `vanished`  which documents stay though their files are gone
* `watch`     a folder, ingested whenever it changes
"""
