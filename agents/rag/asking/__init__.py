"""A question's answer in the documents.

* `retrieve`  a question's passages: both searches, fused, filtered, reranked
* `prompt`    pure. Passages become numbered sources within a budget, and citations
"""
