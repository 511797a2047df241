"""The built-in models: GGUF files of a few megabytes that answer questions, made without training.

* `model`          writes the files
* `weights`        computes the weights, in closed form
* `tokenizer`      turns text into tokens; made from `vocabulary` and the corpus
* `corpus`         the answers, with their topics and keywords
* `chat_template`  the template of prompts and tool calls
"""
