"""What a model will take, in bytes per device, before anything is loaded. All of it is pure.

* `gguf`        headers of model files: what a model is
* `shape`       what of a header matters: layers, heads, windows, states, the tensors of each block
* `buffer`      ggml's allocator: how large a buffer must be for a graph of tensors
* `graph`       llama.cpp's worst-case graph of one device, built from the shape and the settings
* `predict`     weights, KV cache and compute buffers, placed on the devices as llama.cpp places them
* `projector`   what reads images and sound: its weights and buffers
* `flags`       llama-server's flags that change memory
* `collisions`  flags of llama-server that collide with a placement
* `purpose`     what a model is for: to write, to give vectors, or to rank
* `context`     how much of the context llama.cpp lets a slot have, and how it has more

Weights and KV cache are sums that are exact. The compute buffer is what llama.cpp's allocator makes of its
graph, so the graph is built and the allocator replayed; for architectures whose graph nobody has modelled,
an upper estimate is taken if it is larger, and the answer says so.
"""
