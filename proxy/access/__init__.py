"""API keys: who may use what, and how much.

* `keys`          pure: a key, its rights, and finding it by its secret
* `limits`        pure: requests at a time, requests per minute, tokens per day
* `configured`    the keys of the configuration
* `store`         keys and their spent tokens in SQLite
* `gate`          checks each request: its key, its model, its limits
* `command_line`  `run.py key`
"""
