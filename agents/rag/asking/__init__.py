"""Finds sources for a question.

* `retrieve`  a question's passages: both searches, fused, filtered, reranked
* `prompt`    pure: numbered sources within a budget, and citations
"""
