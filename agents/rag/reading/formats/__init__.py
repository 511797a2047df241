"""Formats of documents: each module has one pure function from what was decoded to a `structure.Structure`.

Its blocks are spans of its text, in order, without overlap, and hold all of it but white space.

* `plain`, `markdown`, `html`, `pdf`, `code`  one for each format
* `structure`  what they all make
"""
