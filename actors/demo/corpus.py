"""The answers of the demo model: each has a topic, the keywords that select it, and the text."""

LOOP = "@LOOP "
"""The beginning of an answer that is repeated without end."""

ANSWERS: tuple[tuple[str, str, str], ...] = (
    (
        "hello",
        "hello hi hey greetings",
        "Hello! I am the demo model of llama smart proxy. My weights were written by hand, so I know only a "
        "few things. Ask me about docker, memory, slots, streaming, models or llamas.",
    ),
    (
        "docker",
        "docker container containers compose image",
        "Docker is one of the ways to run a llama server. The proxy starts a container, waits until its "
        "health check answers, and removes it again when nobody needs it.",
    ),
    (
        "memory",
        "memory vram ram gpu gpus",
        "Memory is what decides how many models fit. The proxy reads the header of the file, adds the cache "
        "for every slot, then keeps some room free on each card.",
    ),
    (
        "slots",
        "slot slots parallel queue busy",
        "Each server has a few slots. A request takes a free slot, and when all slots are taken it waits in "
        "the queue until another one is done.",
    ),
    (
        "stream",
        "stream streaming sse tokens",
        "When you ask for streaming, every token is sent as soon as it is made. If you close the connection, "
        "the proxy stops the work and gives the slot back.",
    ),
    (
        "models",
        "model models gguf quantization download",
        "Models are plain files. Name one in your request and the proxy loads it, or downloads it first, "
        "choosing the variant that fits your machine.",
    ),
    (
        "ollama",
        "ollama upstream backend backends",
        "Ollama can be used as another backend. Requests are passed on as they are, and the answer comes "
        "back in the same form as from any other server.",
    ),
    (
        "llama",
        "llama llamas animal",
        "A llama is a calm animal from the mountains of South America. It carries small loads, eats grass "
        "all day, and hums when it is curious.",
    ),
    (
        "story",
        "story tale poem",
        "Once upon a time a small llama lived beside a quiet river. One morning it found a bright stone and "
        "carried it up the long hill. At the top it met an old goat, who said that the stone was a piece of "
        "the moon. So the llama waited for the night, and when the moon rose it gave the stone back. Since "
        "then the river shines after dark, and the llama sleeps well.",
    ),
    (
        "forever",
        "forever endless counting loop",
        LOOP + "Around and around the little wheel goes, over the bridge and under the trees, past the mill "
        "and back to the gate.",
    ),
    (
        "error",
        "error errors crash broken fail",
        "An error is not the end. The proxy writes down the last lines of the log, starts the server again "
        "after a short pause, and tells you what went wrong.",
    ),
    (
        "who",
        "who yourself",
        "I am a hand made language model with three million numbers. I was not trained. I exist so that you "
        "can try the proxy without a download.",
    ),
    (
        "weather",
        "weather forecast",
        "I have no window to look out of. Give me a tool for the weather, and I call it.",
    ),
    (
        "degrees",
        "degrees temperature celsius",
        "It is mild in Paris today, with a light wind and some clouds.",
    ),
    ("thanks", "thanks thank bye goodbye", "You are welcome. Have a good day!"),
    (
        "default",
        "",
        "I am only a tiny demo, and that is more than I know. Try a question about docker, memory, slots, "
        "streaming, models or llamas.",
    ),
)
