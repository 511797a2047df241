"""What was used: a row for each request, in SQLite; and whole requests, where they are captured.

* `records`         all of it, built together
* `rows`            a request's row, and the table of rows
* `ledger`          records finished requests, in batches and in a thread
* `ledger_file`     the file, as the ledger writes it
* `reports`         reads the file: sums, and pages of rows
* `captures`        chooses the requests that are captured, and has them written
* `capture`         one of them: its bytes, and what is kept of them
* `capture_folder`  the files of captures
* `redaction`       pure: removes secrets from them
* `times`           pure: times as people and programs write them
* `command_line`    `run.py usage`

It is below `access` and `exchange`, and sees a request only as `rows.Recordable`.
"""
