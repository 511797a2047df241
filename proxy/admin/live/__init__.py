"""The present state: models, waiting and running requests, and the stream of its changes.

* `models`    `/admin/models`: all models
* `requests`  `/admin/queue`, `/admin/requests`: waiting and running requests, and their cancellation
* `feed`      the changes since the last look, numbered and kept for a while
* `events`    `/admin/events`: the feed as server-sent events
* `parts`     builds them
"""
