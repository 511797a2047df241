"""Predicts the bytes of a projector, the file beside a model that turns images or sound into tokens.

llama.cpp keeps the projector on one device, and allocates a compute buffer for a warm-up image. That is not
the largest one: in an encoder for images of any size (a tower), the buffer grows while the server runs. So
the prediction is for the largest image, or batch of images, that a request may have. Follows
tools/mtmd/clip.cpp of build 11434.
"""

from math import isqrt

from actors.memory.buffer import Buffer, Node
from actors.memory.gguf import Header
from actors.memory.graph.work import F32, on_gpu
from actors.memory.prediction.results import MemoryUsage

F16 = 2
TOKEN_LIMIT = 2048
"""A limit of tokens per image that needs no more memory than Qwen-VL's warm-up image, which has 2116."""

BATCH_TOKENS = 1024
"""Maximum tokens of images that llama-server encodes at a time, unless `--mtmd-batch-max-tokens` is given."""

LARGE_IMAGE = 10240
"""Minimum number of patches assumed for the largest image of an unknown encoder: that of Gemma 4."""

AUDIO_FRAMES, AUDIO_BINS = 3000, 128
"""Frames, and bins per frame, of half a minute of sound: sound is cut into such pieces."""

MARGIN, FALLBACK_MARGIN = 1.25, 1.5
"""Factors for graphs that were not compared with llama.cpp's own figures, and for unknown encoders."""

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
"""Tokens of the largest image, unless llama-server gets a number; patches on the side of a token."""

_LIMITED_BY_FILE = frozenset(
    ["dots3note_v", "dots_ocr", "exaone4_5", "hunyuanvl", "kimik25", "mimovl", "paddleocr", "phi4"]
)
"""Projectors whose limit is the number of pixels in the file, if there is one, whatever flags say."""

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
"""Projectors that cut or scale images to one size."""

_HEADS = frozenset([40, 64, 72, 80, 96, 112, 128, 256])
"""Widths of an attention head for which CUDA has flash attention."""

CONVOLUTIONS = 32
"""Floats per input number of image encoders that consist of convolutions (an estimate)."""

CHANNELS = 256
"""Number of channels of sound convolutions, if the file does not say."""

_MOST = 1 << 33
"""Upper limit of any number of a header: llama.cpp keeps them in 32 bits."""

_WINDOWS = ("n_wa_pattern", "wa_layer_indexes", "wa_pattern_mode")
_MASKED = frozenset(["muse-glimmer"])
_AFTER = ("mm.", "adapter.", "resampler.")
"""Beginnings of the names of tensors after the last layer."""


def predict_projector(
    header: Header,
    *,
    image_max_tokens: int | None,
    flash_attention: bool,
    batch_tokens: int | None = None,
) -> MemoryUsage:
    """Return the maximum memory of a projector on its device.

    `image_max_tokens` and `batch_tokens` are llama-server's flags; None: not given. Raises `ValueError` if
    the file is not a projector.
    """
    towers = _towers(header, image_max_tokens, batch_tokens)
    return MemoryUsage(
        weights=sum(on_gpu(tensor) for tensor in header.tensors),
        compute=sum(tower.compute(flash=flash_attention) for tower in towers),
    )


def projector_inputs(header: Header, *, image_max_tokens: int | None, batch_tokens: int | None = None) -> int:
    """Return the bytes of a projector's inputs on the host. Raises `ValueError` like `predict_projector`."""
    return sum(tower.inputs for tower in _towers(header, image_max_tokens, batch_tokens))


def needs_token_limit(header: Header) -> bool:
    """Whether `--image-max-tokens 2048` limits the memory of large images.

    False if llama.cpp's own limit is lower, since the flag replaces it, and if the limit is in the file.
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
    """One encoder of the file: its dimensions, and those of the largest image or batch of images."""

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
        """Number of patches of all images that are encoded at a time."""
        if self.kind in _BATCHED:
            tokens = BATCH_TOKENS if batch_tokens is None else batch_tokens
            self.positions = max(self.patches, tokens * self.merge**2)

    def number(self, key: str) -> int:
        """Return a number of the encoder's metadata, 0 if absent. Raises `ValueError` if impossible."""
        value = self._metadata.get(f"clip.{self.modality}.{key}", 0)
        if not isinstance(value, int | float):
            return 0
        if not 0 <= value < _MOST:  # NaN is neither
            raise ValueError(f"the projector's {key} is {value}")
        return int(value)

    @property
    def is_known(self) -> bool:
        """Whether the size of the largest input is known."""
        dynamic = _LIMITED_BY_FILE | _LIMITED_BY_EITHER | set(_LIMITS)
        return self.is_whisper or self.kind in _FIXED | _BATCHED | dynamic

    @property
    def is_whisper(self) -> bool:
        """Whether the encoder is Whisper's, for sound."""
        names = ("a.conv1d.1.weight", "a.position_embd.weight")
        return self.modality == "audio" and all(name in self.tensors for name in names)

    @property
    def turns(self) -> bool:
        """Whether queries and keys are rotated by their position."""
        return not self.is_whisper and self.kind not in _FIXED

    @property
    def values(self) -> int:
        """Number of input values of the largest batch of images, or of a piece of sound."""
        if self.modality == "audio":
            return AUDIO_FRAMES * max(AUDIO_BINS, self.number("num_mel_bins"))
        return 3 * self.patch**2 * self.positions

    @property
    def mask(self) -> int:
        """Bytes of the mask of windowed attention; 0: there is none."""
        windowed = any(self._metadata.get(f"clip.{self.modality}.{key}") for key in _WINDOWS)
        return F32 * self.positions * self.patches if windowed or self.kind in _MASKED else 0

    @property
    def inputs(self) -> int:
        """Bytes of all inputs, and of the parts that the host computes."""
        # For these projectors CUDA cannot compute all operations after the last layer.
        merges = self.kind == "pixtral" and "mm.patch_merger.weight" in self.tensors
        rows = 2 if merges or self.kind == "hunyuanvl" else 0
        return F32 * (self.values + (4 + rows * self.width) * self.positions) + self.mask

    def _largest(self, max_tokens: int | None) -> tuple[bool, int]:
        """Return whether `--image-max-tokens` has an effect, and the patches of the largest image."""
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
        """Return the bytes of the encoder's compute buffer."""
        if "ffn_up.weight" not in self.block:
            return int(MARGIN * CONVOLUTIONS * F32 * self.values)
        needed = _Graph(self, flash=flash and self.head in _HEADS).build().required()
        if self.kind in MODELLED:
            return needed
        if self.modality == "audio" and not self.is_whisper:
            channels = [tensor.shape[-1] for name, tensor in self.tensors.items() if "a.conv" in name]
            # The first convolution halves both sides of the spectrum; three of its results exist at a time.
            needed += 3 * F32 * self.values // 4 * max(channels, default=CHANNELS)
        # DeepSeek-OCR has another encoder before this one, whose attention has relative positions.
        needed += 3 * F32 * self.number("sam.head_count") * self.positions * self.patches
        return int(needed * (MARGIN if self.is_known else FALLBACK_MARGIN))


class _Graph:
    """The graph of an encoder, with the tensors of llama.cpp's graph that need memory, in the same order."""

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

    # Inputs

    def _convolution(self, name: str, image: Node) -> Node:
        tower, kernel = self.tower, self.tower.tensors.get(name)
        of = kernel.type if kernel is not None else "F16"
        columns = (F32 if of == "BF16" else F16) * tower.values
        product = self.add(self.row, self.view(self.add(columns, image)))
        return self.add(self.row, self.view(product))

    def _patches(self) -> Node:
        image = self.input("image", F32 * self.tower.values)
        if self.tower.turns:  # after the image, so that the image's memory is not joined with another range
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
        """Return the mask in 16 bits, for flash attention: once for all layers, then once for each layer."""
        if (mask := self._mask()) is None:
            return None
        half = self.tower.mask // 2
        if self._mask_in_half is None:
            self._mask_in_half = self.add(half, mask)
        return self.add(half, self._mask_in_half)

    def _breaks(self) -> Node | None:
        """Return the input with the token at the end of each row of an image, or None."""
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
            turned = self.add(size + self.row, self.view(v))  # one more row, for gaps
            scores = F32 * tower.heads * tower.positions * tower.patches
            weights = self.add(
                scores, self.add(scores, self.view(k), self.view(q)), self._mask(), in_place=True
            )
            out = self.add(size, self.view(self.add(size, turned, weights)))
        return self.add(self.row, out)

    def _turned(self, part: Node, size: int) -> Node:
        """Return queries or keys, rotated by their positions."""
        if not self.tower.turns:
            return part
        return self.add(size, part, self.input("positions", 4 * F32 * self.tower.positions))

    # Outputs

    def _deep_feature(self, layer: int, x: Node, before: Node | None) -> Node:
        """Return the features of a lower layer, joined with those of the layers `before`."""
        tokens = self.tower.positions // self.tower.merge**2
        x = self._norm(self.view(x))
        for part in ("fc1", "fc2"):
            tensor = self.tower.tensors.get(f"v.deepstack.{layer}.{part}.weight")
            x = self.add(F32 * (tensor.shape[-1] if tensor else 0) * tokens, x)
        return x if before is None else self.add((x.size or 0) + (before.size or 0), before, x)

    def _project(self, x: Node) -> Node:
        """Add the projection after the last layer: the input and output of each of its layers."""
        tower = self.tower
        tokens = max(1, tower.positions // tower.merge**2)
        x = self.add(self.row, self.view(self.add(self.row, self.view(x))))
        for name, tensor in tower.tensors.items():
            if name.startswith(_AFTER) and name.endswith("weight") and len(tensor.shape) > 1:
                x = self.add(F32 * tensor.shape[-1] * tokens, x)
        return x
