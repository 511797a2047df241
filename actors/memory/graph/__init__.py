"""Builds llama.cpp's worst-case graph of one device, to find its memory. Pure.

Each function mirrors one of llama.cpp's graph builders (src/llama-graph.cpp, src/models/*.cpp): the same
tensors of the same sizes in the same order, without their computations. Sizes are in bytes; activations are
32-bit floats.

* `worst_case`    the size of a device's compute buffer
* `decoder`       the graph of a model with a cache
* `altup`         the graph of a model with several activations for each token
* `encoder`       the graph of a model that reads a text at once, without a cache, and embeds it
* `attention`     attention layers
* `latent`        queries and keys of latent attention, and the indexer that selects tokens
* `recurrent`     layers that keep a state
* `feed_forward`  the second half of a layer: one network, or experts
* `parts`         the common parts of all graphs
* `work`          the batch, and sizes of rows and tensors
"""
