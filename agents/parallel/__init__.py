"""Parallel: several answers to one request at the same time, combined into one.

* `agent`        the agent: options, and the four ways to combine answers
* `candidates`   calls the models, within their slots, one model after the other, loaded ones first
* `choice`       combines answers: the judge's choice, the majority's, or a merged one
* `voting`       pure: which answers are equal
* `prompts`      pure: the prompts for judging and merging
"""
