"""Where a model can run, in bytes. All of it is pure.

* `options`  the ways to run a model: whole, split, partly on the host, on the host
* `fit`      where one way fits
* `ledger`   who has what memory, on each GPU and on the host
"""
