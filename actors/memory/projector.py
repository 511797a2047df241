"""Bytes that a multimodal projector takes: the file beside a model that turns images or sound into tokens.

llama.cpp keeps it on one device, and gives it a compute buffer for a warm-up image. That is not the largest
one: of towers for images of any size the buffer grows while the server runs. So what is predicted here is
for the largest image, or batch of images, that a request may have. Mirrors tools/mtmd/clip.cpp of build
11434.
"""

from math import isqrt

from actors.memory.buffer import Buffer, Node
from actors.memory.gguf import Header
from actors.memory.graph.work import F32, on_gpu
from actors.memory.predict import MemoryUsage

F16 = 2
TOKEN_LIMIT = 2048
"""Tokens of an image that need no more memory than the warm-up image of Qwen-VL, which has 2116."""

BATCH_TOKENS = 1024
"""Tokens up to which llama-server encodes several images at a time, unless `--mtmd-batch-max-tokens`."""

LARGE_IMAGE = 10240
"""Patches of the largest image of a tower that nobody knows, at least; as Gemma 4's."""

AUDIO_FRAMES, AUDIO_BINS = 3000, 128
"""Half a minute of sound, which is cut into such pieces."""

MARGIN, FALLBACK_MARGIN = 1.25, 1.5
"""On graphs that were not compared with llama.cpp's own figures, and of towers that nobody knows."""

MODELLED = frozenset(
    [
        "gemma3",
        "gemma4v",
        "glm4v",
        "hunyuanvl",
        "idefics3",
        "internvl",
        "kimivl",
        "lfm2",
        "llama4",
        "paddleocr",
        "pixtral",
        "qwen2.5vl_merger",
        "qwen2a",
        "qwen2vl_merger",
        "qwen3vl_merger",
        "ultravox",
        "voxtral",
    ]
)
"""Projectors whose graphs were compared with llama.cpp's own figures; see tests/actors/memory."""

_LIMITS = {
    "deepseek4v": (384, 2),
    "gemma4uv": (1120, 1),
    "gemma4v": (1120, 3),
    "glm4v": (4096, 2),
    "hunyuanvl": (16384, 2),
    "kimik25": (4096, 2),
    "kimivl": (1024, 2),
    "lfm2": (256, 2),
    "ling3vl": (4096, 2),
    "minimax_m3": (576, 2),
    "muse-glimmer": (4096, 2),
    "pixtral": (1024, 1),
    "qwen2.5vl_merger": (4096, 2),
    "qwen2vl_merger": (4096, 2),
    "qwen3vl_merger": (4096, 2),
    "youtuvl": (62500, 2),
}
"""Tokens of the largest image unless llama-server is told a number; patches on the side of a token."""

_LIMITED_BY_FILE = frozenset(
    ["dots3note_v", "dots_ocr", "exaone4_5", "hunyuanvl", "kimik25", "mimovl", "paddleocr", "phi4"]
)
"""If the file has a number of pixels, it is the limit, whatever llama-server is told."""

_LIMITED_BY_EITHER = frozenset(["glm5v", "lightonocr"])
_BATCHED = frozenset(["deepseekocr", "deepseekocr2", "gemma4v", "internvl"])
_FIXED = frozenset(
    [
        "adapter",
        "cogvlm",
        "gemma3",
        "gemma3nv",
        "granite4_vision",
        "idefics3",
        "internvl",
        "janus_pro",
        "ldp",
        "ldpv2",
        "llama4",
        "minicpmv4_6",
        "mlp",
        "nemotron_v2_vl",
        "resampler",
        "step3vl",
        "yasa2",
    ]
)
"""Images are cut or scaled to one size."""

_HEADS = frozenset([40, 64, 72, 80, 96, 112, 128, 256])
"""Widths of a head for which CUDA has flash attention."""

CONVOLUTIONS = 32
"""Floats for each number that goes in, of encoders of images made of convolutions (an estimate)."""

CHANNELS = 256
"""Of convolutions of sound, where the file does not say."""

_MOST = 1 << 33
"""What any number of a header may be: llama.cpp keeps them in 32 bits."""

_WINDOWS = ("n_wa_pattern", "wa_layer_indexes", "wa_pattern_mode")
_MASKED = frozenset(["muse-glimmer"])
_AFTER = ("mm.", "adapter.", "resampler.")
"""Beginnings of the names of what comes after the last layer."""


def predict_projector(
    header: Header,
    *,
    image_max_tokens: int | None,
    flash_attention: bool,
    batch_tokens: int | None = None,
) -> MemoryUsage:
    """What it takes at most of its device. Numbers of tokens: what llama-server is told, if anything.

    Raises `ValueError` for what is no projector.
    """
    towers = _towers(header, image_max_tokens, batch_tokens)
    return MemoryUsage(
        weights=sum(on_gpu(tensor) for tensor in header.tensors),
        compute=sum(tower.compute(flash=flash_attention) for tower in towers),
    )


def projector_inputs(header: Header, *, image_max_tokens: int | None, batch_tokens: int | None = None) -> int:
    """Bytes of the host that it takes beside its device, for what goes in. Raises as `predict_projector`."""
    return sum(tower.inputs for tower in _towers(header, image_max_tokens, batch_tokens))


def needs_token_limit(header: Header) -> bool:
    """Whether `--image-max-tokens 2048` keeps the memory of large images in bounds.

    Not where llama.cpp's own limit is lower, since the number replaces it; nor where the file has the limit.
    """
    if not header.metadata.get("clip.has_vision_encoder"):
        return False
    tower = _Tower(header, "vision", None, None)
    return tower.obeys and tower.patches > TOKEN_LIMIT * tower.merge**2


def _towers(header: Header, max_tokens: int | None, batch_tokens: int | None) -> "list[_Tower]":
    towers = [
        _Tower(header, modality, max_tokens, batch_tokens)
        for modality in ("vision", "audio")
        if header.metadata.get(f"clip.has_{modality}_encoder")
    ]
    if header.architecture != "clip" or not towers:
        raise ValueError(f"is no projector of images or sound (architecture {header.architecture!r})")
    return towers


class _Tower:
    """One encoder of the file: its dimensions, and those of the largest image or batch of them."""

    def __init__(
        self, header: Header, modality: str, max_tokens: int | None, batch_tokens: int | None
    ) -> None:
        self._metadata = header.metadata
        self.modality = modality
        both = header.metadata.get("clip.projector_type")
        self.kind = str(both or header.metadata.get(f"clip.{modality}.projector_type", ""))
        if self.kind == "qwen2.5o":
            self.kind = "qwen2.5vl_merger" if modality == "vision" else "qwen2a"
        self.tensors = {tensor.name: tensor for tensor in header.tensors}
        prefix = f"{modality[0]}.blk.0."
        self.block = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }
        self.layers = sum(
            name.startswith(f"{modality[0]}.blk.") and name.endswith(".ffn_up.weight")
            for name in self.tensors
        )
        self.width = self.number("embedding_length")
        self.heads = self.number("attention.head_count")
        if not self.width or not self.heads:
            raise ValueError(f"the projector's {modality} encoder has no dimensions")
        self.head = self.number("attention.head_dim") or self.width // self.heads
        self.patch = self.number("patch_size") or 1
        self.merge = (
            self.number("spatial_merge_size")
            or self.number("projector.scale_factor")
            or _LIMITS.get(self.kind, (0, 4 if self.kind in _BATCHED else 1))[1]
        )
        if modality == "audio":
            self.obeys, self.patches = False, AUDIO_FRAMES // 2
        else:
            self.obeys, self.patches = self._largest(max_tokens)
        self.positions = self.patches
        """Patches of all the images that are encoded at a time."""
        if self.kind in _BATCHED:
            tokens = BATCH_TOKENS if batch_tokens is None else batch_tokens
            self.positions = max(self.patches, tokens * self.merge**2)

    def number(self, key: str) -> int:
        """A number of the encoder's metadata. Raises `ValueError` for one that no encoder has."""
        value = self._metadata.get(f"clip.{self.modality}.{key}", 0)
        if not isinstance(value, int | float):
            return 0
        if not 0 <= value < _MOST:  # NaN is neither
            raise ValueError(f"the projector's {key} is {value}")
        return int(value)

    @property
    def is_known(self) -> bool:
        """Whether the size of what goes in is known."""
        dynamic = _LIMITED_BY_FILE | _LIMITED_BY_EITHER | set(_LIMITS)
        return self.is_whisper or self.kind in _FIXED | _BATCHED | dynamic

    @property
    def is_whisper(self) -> bool:
        """Whether it is Whisper's encoder of sound."""
        names = ("a.conv1d.1.weight", "a.position_embd.weight")
        return self.modality == "audio" and all(name in self.tensors for name in names)

    @property
    def turns(self) -> bool:
        """Whether queries and keys are turned by their position."""
        return not self.is_whisper and self.kind not in _FIXED

    @property
    def values(self) -> int:
        """Numbers in an image, or in a piece of sound."""
        if self.modality == "audio":
            return AUDIO_FRAMES * max(AUDIO_BINS, self.number("num_mel_bins"))
        return 3 * self.patch**2 * self.positions

    @property
    def mask(self) -> int:
        """Bytes of the mask of attention in windows."""
        windowed = any(self._metadata.get(f"clip.{self.modality}.{key}") for key in _WINDOWS)
        return F32 * self.positions * self.patches if windowed or self.kind in _MASKED else 0

    @property
    def inputs(self) -> int:
        """Bytes of all that goes in, and of what the host computes."""
        # Of these, CUDA cannot compute all that comes after the last layer.
        merges = self.kind == "pixtral" and "mm.patch_merger.weight" in self.tensors
        rows = 2 if merges or self.kind == "hunyuanvl" else 0
        return F32 * (self.values + (4 + rows * self.width) * self.positions) + self.mask

    def _largest(self, max_tokens: int | None) -> tuple[bool, int]:
        """Whether a number given to llama-server matters, and patches of the largest image."""
        fixed = max(1, self.number("image_size") // self.patch) ** 2
        by_file = self.number("image_max_pixels") // self.patch**2
        given = (max_tokens or 0) * self.merge**2
        if self.kind in _LIMITED_BY_FILE and by_file:
            return False, by_file
        if self.kind in _LIMITED_BY_EITHER:
            edge = (self.number("preproc_image_size") or self.number("image_size")) // self.patch
            return True, given or by_file or max(1, edge) ** 2
        if self.kind in _LIMITS:
            return True, given or _LIMITS[self.kind][0] * self.merge**2
        if self.kind in _FIXED:
            return False, fixed
        if self.kind in _BATCHED:  # DeepSeek-OCR, whose images have 1024 pixels on a side
            return False, max(fixed, 4096)
        return False, max(fixed, by_file, given, LARGE_IMAGE)

    def compute(self, *, flash: bool) -> int:
        """Bytes of its compute buffer."""
        if "ffn_up.weight" not in self.block:
            return int(MARGIN * CONVOLUTIONS * F32 * self.values)
        needed = _Graph(self, flash=flash and self.head in _HEADS).build().required()
        if self.kind in MODELLED:
            return needed
        if self.modality == "audio" and not self.is_whisper:
            channels = [tensor.shape[-1] for name, tensor in self.tensors.items() if "a.conv" in name]
            # The first convolution halves both sides of the spectrum; three of its results are there at once.
            needed += 3 * F32 * self.values // 4 * max(channels, default=CHANNELS)
        # DeepSeek-OCR: another encoder goes before, whose attention has relative positions.
        needed += 3 * F32 * self.number("sam.head_count") * self.positions * self.patches
        return int(needed * (MARGIN if self.is_known else FALLBACK_MARGIN))


class _Graph:
    """The graph of a tower: the same tensors in the same order as in llama.cpp's, as far as memory goes."""

    def __init__(self, tower: _Tower, *, flash: bool) -> None:
        self.tower = tower
        self.flash = flash
        self.buffer = Buffer()
        self.add, self.view, self.input = self.buffer.add, self.buffer.view, self.buffer.input
        self.row = F32 * tower.width * tower.positions
        """Bytes of the activations between two layers."""
        self._mask_in_half: Node | None = None

    def build(self) -> Buffer:
        tower = self.tower
        x = self._convolve_sound() if tower.modality == "audio" else self._patches()
        if tower.modality == "vision":
            x = self._add_positions(x)
        order = None
        if tower.mask:
            self._mask()
            order = self.input("order", F32 * tower.positions // tower.merge**2)
            x = self.add(self.row, self.view(x))
        breaks = self._breaks()
        kept = {}
        for layer in range(tower.layers):
            x = self._layer(x)
            if f"v.deepstack.{layer}.fc1.weight" in tower.tensors:
                kept[layer] = x
        out = self._project(self._norm(x))
        features: Node | None = None
        for layer, x in kept.items():
            features = self._deep_feature(layer, x, features)
        self.add(None, order, breaks, out, features)
        return self.buffer

    # What goes in

    def _convolution(self, name: str, image: Node) -> Node:
        tower, kernel = self.tower, self.tower.tensors.get(name)
        of = kernel.type if kernel is not None else "F16"
        columns = (F32 if of == "BF16" else F16) * tower.values
        product = self.add(self.row, self.view(self.add(columns, image)))
        return self.add(self.row, self.view(product))

    def _patches(self) -> Node:
        image = self.input("image", F32 * self.tower.values)
        if self.tower.turns:  # behind the image, so that its place is not joined with another
            self.input("positions", 4 * F32 * self.tower.positions)
        x = self._convolution("v.patch_embd.weight", image)
        if "v.patch_embd.weight.1" in self.tower.tensors:
            x = self.add(self.row, x, self._convolution("v.patch_embd.weight.1", image), in_place=True)
            x = self.add(self.row, self.view(x))
        x = self.add(self.row, self.view(x))
        if "v.patch_embd.bias" in self.tower.tensors:
            x = self.add(self.row, x, in_place=True)
        return self.add(self.row, x) if "v.class_embd" in self.tower.tensors else x

    def _convolve_sound(self) -> Node:
        tower = self.tower
        sound = self.input("sound", F32 * tower.values)
        wide = F32 * tower.width * AUDIO_FRAMES
        x = self.add(wide, self.view(self.add(3 * F16 * tower.values, sound)))
        x = self.add(wide, self.add(wide, self.view(x)), in_place=True)
        x = self.add(self.row, self.view(self.add(3 * F16 * tower.width * tower.positions, x)))
        x = self.add(self.row, self.add(self.row, self.view(x)), in_place=True)
        return self.add(self.row, self.view(x))

    def _add_positions(self, x: Node) -> Node:
        tower = self.tower
        table = tower.tensors.get("v.position_embd.weight")
        if table is None:
            return x
        if tower.kind in _FIXED:
            return self.add(self.row, x, in_place=True)
        learned = self.add(self.row, self.view(self.add(self.row)))
        if "v.patch_embd.weight.1" in tower.tensors:
            learned = self.add(self.row, self.view(self.add(self.row, learned)))
        return self.add(self.row, x, learned, in_place=True)

    def _mask(self) -> Node | None:
        return self.input("mask", self.tower.mask) if self.tower.mask else None

    def _half_mask(self) -> Node | None:
        """In 16 bits, for flash attention: once for all the layers, and then once for each."""
        if (mask := self._mask()) is None:
            return None
        half = self.tower.mask // 2
        if self._mask_in_half is None:
            self._mask_in_half = self.add(half, mask)
        return self.add(half, self._mask_in_half)

    def _breaks(self) -> Node | None:
        """The token at the end of each row of an image."""
        token = self.tower.tensors.get("v.token_embd.img_break")
        rows = isqrt(self.tower.positions) // self.tower.merge
        return self.input("breaks", F32 * token.shape[0] * rows) if token is not None else None

    # A layer

    def _norm(self, x: Node) -> Node:
        return self.add(self.row, self.add(self.row, x), in_place=True)

    def _layer(self, x: Node) -> Node:
        tower, block = self.tower, self.tower.block
        attended = self._attention(self._norm(x))
        x = self.add(self.row, attended, x, in_place=True)
        hidden = self._norm(x)
        size = F32 * max(block["ffn_up.weight"].shape[:2]) * tower.positions
        up = self.add(size, hidden)
        if "ffn_gate.weight" in block:
            inner = self.add(size, self.add(size, hidden), up)
        else:
            inner = self.add(size, up, in_place=True)
        return self.add(self.row, x, self.add(self.row, inner), in_place=True)

    def _attention(self, hidden: Node) -> Node:
        tower, block = self.tower, self.tower.block
        size = F32 * tower.head * tower.heads * tower.positions
        if "attn_qkv.weight" in block:
            fused = self.add(3 * size, hidden)
            q, k, v = (self._turned(self.view(fused), size), self._turned(self.view(fused), size), fused)
        else:
            q = self._turned(self.view(self.add(size, hidden)), size)
            k = self._turned(self.view(self.add(size, hidden)), size)
            v = self.add(size, hidden)
        if self.flash:
            half = [self.add(size // 2, self.view(part)) for part in (k, v)]
            out = self.view(self.add(size, self.view(q), *half, self._half_mask()))
        else:
            turned = self.add(size + self.row, self.view(v))  # a row more: what lies in gaps
            scores = F32 * tower.heads * tower.positions * tower.patches
            weights = self.add(
                scores, self.add(scores, self.view(k), self.view(q)), self._mask(), in_place=True
            )
            out = self.add(size, self.view(self.add(size, turned, weights)))
        return self.add(self.row, out)

    def _turned(self, part: Node, size: int) -> Node:
        """Queries or keys with their positions."""
        if not self.tower.turns:
            return part
        return self.add(size, part, self.input("positions", 4 * F32 * self.tower.positions))

    # What comes out

    def _deep_feature(self, layer: int, x: Node, before: Node | None) -> Node:
        """What is told of a lower layer, beside what was told of others."""
        tokens = self.tower.positions // self.tower.merge**2
        x = self._norm(self.view(x))
        for part in ("fc1", "fc2"):
            tensor = self.tower.tensors.get(f"v.deepstack.{layer}.{part}.weight")
            x = self.add(F32 * (tensor.shape[-1] if tensor else 0) * tokens, x)
        return x if before is None else self.add((x.size or 0) + (before.size or 0), before, x)

    def _project(self, x: Node) -> Node:
        """The layers after the last: of each, what goes in and what comes out."""
        tower = self.tower
        tokens = max(1, tower.positions // tower.merge**2)
        x = self.add(self.row, self.view(self.add(self.row, self.view(x))))
        for name, tensor in tower.tensors.items():
            if name.startswith(_AFTER) and name.endswith("weight") and len(tensor.shape) > 1:
                x = self.add(F32 * tensor.shape[-1] * tokens, x)
        return x
