"""Handlers, one module for a group of routes.

* `generate`       the endpoints that a model answers: chooses the way of the answer
* `responses`      `/v1/responses`: answers that are kept, or given in the background
* `passthrough`    `/upstream/{model}/...` and llama.cpp's probes, unchanged
* `health`         `/health`: reports of the present state
* `models`         `/v1/models`: the list of models
* `readiness`      `/health/ready`: whether the external dependencies are available
* `agents`         `/v1/agents`
* `ollama_models`  Ollama's API: lists of models, and of loaded ones
* `ollama_store`   Ollama's API: pull, create, copy, push and delete
"""
