"""What answers a group of routes.

* `generate`       the endpoints that a model answers: which way a request goes
* `passthrough`    `/upstream/{model}/...` and llama.cpp's probes, unchanged
* `health`         `/health`, `/v1/models`, `/admin/plan`: what may be looked at
* `readiness`      `/health/ready`: whether what the configuration needs outside is there
* `agents`         `/v1/agents`
* `ollama_models`  Ollama's API around the answers: what there is, and what runs
* `ollama_store`   Ollama's API of models that come and go
"""
