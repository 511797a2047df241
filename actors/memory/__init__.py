"""Predicts a model's memory, in bytes per device, before the model is loaded. Pure.

* `gguf`        reads headers of model files
* `builds`      what builds of llama.cpp allocate differently
* `shape`       the dimensions in a header: layers, heads, windows, states, the tensors of each block
* `buffer`      replays ggml's allocator: the size of a buffer for a graph of tensors
* `graph`       builds llama.cpp's worst-case graph of one device, from the shape and the settings
* `prediction`  weights, KV cache and compute buffers, placed on the devices as llama.cpp places them
* `growth`      saved prompts and checkpoints, which a server takes of main memory while it works
* `projector`   weights and buffers of the projector, which reads images and sound
* `flags`       reads llama-server's flags that change memory
* `flag_effects`  which of llama-server's flags change memory, and which of them are counted
* `collisions`  finds flags of llama-server that collide with a placement
* `purpose`     the purpose of a model: to write, to embed, or to rank
* `context`     the context that llama.cpp gives each slot, and the flags that extend it

Weights and KV cache are exact sums. The size of the compute buffer results from llama.cpp's allocator and
its graph, so the graph is built and the allocator is replayed. For an architecture whose graph is not
modelled, an upper estimate is used if it is larger, and the prediction's `certainty` says so.
"""
