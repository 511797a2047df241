"""llama.cpp's worst-case graph of one device, as far as its memory goes. Pure.

Each function mirrors one of llama.cpp's graph builders (src/llama-graph.cpp, src/models/*.cpp): the same
tensors of the same sizes in the same order, without what they compute. Sizes are in bytes; activations are
32-bit floats.

* `worst_case`    how large the buffer of a device must be
* `decoder`       the graph of a model that writes
* `encoder`       that of a model that reads a text at once, and gives vectors
* `attention`     layers that look at what came before
* `recurrent`     layers that keep a state
* `feed_forward`  what follows either: one network, or experts
* `parts`         what all of them are made of
* `work`          the batch, and sizes of rows and tensors
"""
