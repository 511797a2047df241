"""One request answered several ways at once, and one answer made of these.

* `agent`        the agent: options, and the four ways to make one answer
* `candidates`   asks the models: within their slots, one model after the other, the loaded one first
* `choice`       one answer of several: the judge's, the majority's, or one written anew
* `voting`       pure: which answers are the same
* `prompts`      pure: what the judge, and who merges, is asked
"""
