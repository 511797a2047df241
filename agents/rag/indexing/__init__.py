"""Puts documents into the index.

* `ingest`    adds changed documents of folders and uploads; first the words, then the vectors
* `folders`   finds the documents of a folder
* `vanished`  decides which documents stay although their files are gone
* `watch`     ingests a folder whenever it changes
"""
