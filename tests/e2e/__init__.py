"""The whole gateway, on real llama.cpp servers and on a stand-in that misbehaves."""
