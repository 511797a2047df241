"""A llama.cpp `server`: what it is sent, and what its streams say."""
