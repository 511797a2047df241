"""Predicts weights, KV cache and compute buffers, placed on the devices as llama.cpp places them. Pure.

* `predict`        the prediction of a model with its settings on given GPUs
* `layers`         weights and cache on the devices of their layers
* `compute`        compute buffers, and what cuts between devices add to them
* `estimate`       the compute buffer of a model whose graph is not modelled
* `architectures`  the architectures whose graphs are modelled
* `batch`          the largest batch that the settings allow
* `settings`       the settings of a llama-server that change its memory
* `results`        the bytes on each device, and how certain they are
"""
