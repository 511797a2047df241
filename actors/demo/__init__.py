"""The built-in models: GGUF files of a few megabytes that answer, made without training.

* `model`          the files
* `weights`        the weights, in closed form
* `tokenizer`      the tokens of a text; made from `vocabulary` and the corpus
* `corpus`         what it says
* `chat_template`  the prompt, and how tools are called
"""
