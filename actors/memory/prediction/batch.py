"""The largest batch that the settings allow, for which llama.cpp reserves its buffers."""

from actors.memory.buffer import align
from actors.memory.graph.work import KERNEL_HEADS, Work
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape


def batches(settings: LoadSettings) -> tuple[int, int]:
    """Return the number of tokens of a batch, and of a micro-batch."""
    batch = min(settings.whole_batch or settings.batch, settings.context)
    return batch, min(settings.whole_batch or settings.micro_batch, batch)


def output_floats(shape: Shape, settings: LoadSettings) -> int:
    """Return the maximum number of floats of llama.cpp's output buffer on the host.

    Each output has a row as wide as the vocabulary. In a model that embeds or ranks, each token of a
    micro-batch is an output, with its vector besides, and the server's batches are micro-batches.
    """
    slots = max(1, settings.parallel)
    if settings.pooling is None:
        return shape.vocabulary * slots
    return (shape.vocabulary + shape.width) * max(slots, batches(settings)[1])


def work_of(shape: Shape, settings: LoadSettings, *, gpus: bool) -> Work:
    """Return the largest batch of a model. `gpus`: whether there are any."""
    batch, micro_batch = batches(settings)
    context = align(settings.context, 256)
    cells = context if settings.unified else align(context // settings.parallel, 256)
    total = cells if settings.unified else cells * settings.parallel
    tokens = align(min(total, micro_batch), settings.parallel)
    sequences = settings.parallel if settings.unified else 1
    window = align(min(cells, shape.window * sequences + micro_batch), 256)
    of_slots = min(batch, settings.parallel * (1 + settings.drafted))
    outputs = of_slots if settings.outputs is None else settings.outputs or batch
    if not settings.build.limits_outputs:
        outputs = tokens
    if not shape.cached:  # a token attends only to tokens of its batch
        cells = window = outputs = tokens
    return Work(
        tokens=tokens,
        outputs=min(tokens, outputs),
        sequences=settings.parallel,
        streams=1 if settings.unified or not shape.cached else settings.parallel,
        cells=cells,
        window_cells=cells if settings.full_window else window,
        pooling=settings.pooling or "none",
        mixes=settings.build.mixes_inputs,
        casts_masks=settings.build.casts_masks,
        flash=_uses_flash(shape, settings, gpus=gpus),
        type_k=settings.type_k,
        type_v=settings.type_v,
    )


def _uses_flash(shape: Shape, settings: LoadSettings, *, gpus: bool) -> bool:
    """Return whether flash attention is used. Without a setting llama.cpp uses it where the layers are."""
    if settings.flash_attention is not None:
        return settings.flash_attention
    return not gpus or KERNEL_HEADS.issuperset(shape.keys)
