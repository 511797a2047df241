"""OpenAI's Responses beyond one answer: what is kept of them, and what is answered in the background.

* `routes`      the endpoints of responses
* `store`       responses that are kept: in memory for a while, in SQLite if configured
* `recording`   answers on their way to the client are kept
* `background`  answers that go on without their client
"""
