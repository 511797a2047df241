"""Official clients through every feature of their APIs, on every backend, streamed and whole.

* `conftest`            one gateway for all, its backends, and the tests that are expected to fail
* `known`               which those are, and why
* `strict`              answers held against the clients' own types
* `table`               which feature passes with which client on which backend
* `samples`, `anthropic_samples`, `responses_samples`   what is sent
"""
