"""A document's bytes become chunks.

* `documents`  pure. Bytes and a name become a text with a structure, or a `DocumentError`
* `formats`    pure. What that uses: plain text, Markdown, HTML, PDF, code
* `chunks`     pure. That text becomes chunks: spans of it, with the headings they stand under
* `reader`     both of them in a child process, with limits
"""
