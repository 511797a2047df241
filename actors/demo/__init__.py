"""The built-in models: GGUF files of a megabyte or two that answer, made without training.

* `model`   the weights, in closed form, and the file
* `corpus`  what it says
"""
