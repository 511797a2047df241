"""The architectures whose graphs are replayed as llama.cpp builds them."""

from actors.memory.shape import ENCODERS

MODELLED = frozenset(
    [
        *ENCODERS,
        "apertus",
        "bailingmoe2",
        "cohere2",
        "command-r",
        "deepseek2",
        "deepseek32",
        "ernie4_5",
        "ernie4_5-moe",
        "exaone4",
        "falcon-h1",
        "gemma2",
        "gemma3",
        "gemma3n",
        "gemma4",
        "glm-dsa",
        "glm4moe",
        "gpt-oss",
        "granitehybrid",
        "granitemoe",
        "hunyuan-dense",
        "hunyuan-moe",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "llama",
        "llama4",
        "mamba",
        "mamba2",
        "mimo2",
        "minimax-m2",
        "mistral3",
        "nemotron_h",
        "nemotron_h_moe",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen2vl",
        "qwen3",
        "qwen35",
        "qwen35moe",
        "qwen3moe",
        "qwen3next",
        "qwen3vl",
        "qwen3vlmoe",
        "seed_oss",
        "smollm3",
        "step35",
    ]
)
"""Architectures whose graphs were compared with llama.cpp's own figures; see tests/actors/memory."""

NEARLY_MODELLED = frozenset(["mistral4"])
"""Architectures whose graph is replayed, except for products that llama.cpp leaves to the host."""
