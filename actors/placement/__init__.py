"""Where a model can run, calculated in bytes. Pure.

* `options`  the ways to run a model: whole, split, partly on the host, on the host
* `fit`      where a way to run a model fits
* `ledger`   the memory that each model has reserved, on each GPU and on the host
"""
