"""Knows which of llama-server's flags change memory, and which of these a prediction counts. Pure.

Every flag of the builds in `tests/actors/memory/help` is in one of the lists. A flag that is in none of them
may do anything, so a prediction with it is not exact.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from actors.memory.flags import COUNTED_FLAGS, last_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


COUNTED = COUNTED_FLAGS | _names(
    """
    -m --model -mm --mmproj --lora --lora-scaled --control-vector --control-vector-scaled
    --rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor
    --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast --image-min-tokens
    -cms --checkpoint-min-step -cpent --checkpoint-every-n-tokens
    """
)
"""Flags that change memory as a prediction says, or not beyond what it says."""

UNCOUNTED = _names(
    """
    --rpc -fit --fit -fitt --fit-target -fitc --fit-ctx --op-offload --no-op-offload
    --no-host -lzm --lazy-mode --override-kv --kv-unified-per-slot
    -mu --model-url -dr --docker-repo -hf -hfr --hf-repo -hff --hf-file -mmu --mmproj-url -mmdev
    --mmproj-device
    -hfd -hfrd --hf-repo-draft --spec-draft-hf -mv --model-vocoder -hffv --hf-file-v -hfv -hfrv
    --hf-repo-v
    -bs --backend-sampling --spec-draft-backend-sampling --no-spec-draft-backend-sampling --spec-default
    -lcs --lookup-cache-static -lcd --lookup-cache-dynamic --lora-init-without-apply
    --control-vector-layer-range
    --models-dir --models-preset --models-max --models-autoload --no-models-autoload
    --embd-gemma-default --fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default
    --fim-qwen-7b-spec
    --fim-qwen-14b-spec --fim-qwen-30b-default --gpt-oss-20b-default --gpt-oss-120b-default
    --vision-gemma-4b-default --vision-gemma-12b-default
    -devd --device-draft --spec-draft-device --cache-idle-slots --no-cache-idle-slots
    """
)
"""Flags that may change memory in ways that no prediction counts."""

UNRELATED = _names(
    """
    -h --help --usage --version --license -cl --cache-list --completion-bash --list-devices
    -t --threads -tb --threads-batch -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll
    -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch
    -n --predict --n-predict --keep --perf --no-perf -e --escape --no-escape
    -dt --defrag-thold --numa --check-tensors -hft --hf-token --offline
    --log-disable --log-file --log-jsonl --no-log-jsonl --log-colors -v --verbose --log-verbose -lv
    --verbosity
    --log-verbosity --log-prefix --no-log-prefix --log-timestamps --no-log-timestamps --log-prompts-dir
    --samplers -s --seed --sampler-seq --sampling-seq --ignore-eos --temp --temperature --top-k --top-p
    --min-p
    --top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --typical --typical-p --repeat-last-n
    --repeat-penalty --presence-penalty --frequency-penalty --dry-multiplier --dry-base
    --dry-allowed-length
    --dry-penalty-last-n --dry-sequence-breaker --adaptive-target --adaptive-decay --dynatemp-range
    --dynatemp-exp --mirostat --mirostat-lr --mirostat-ent -l --logit-bias --grammar --grammar-file
    -j --json-schema -jf --json-schema-file
    --spec-draft-threads -td --threads-draft --spec-draft-threads-batch -tbd --threads-batch-draft
    --spec-draft-cpu-mask -Cd --cpu-mask-draft --spec-draft-cpu-range -Crd --cpu-range-draft
    --spec-draft-cpu-strict --cpu-strict-draft --spec-draft-prio --prio-draft --spec-draft-poll
    --poll-draft
    --spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft
     --spec-draft-cpu-strict-batch --cpu-strict-batch-draft
    --spec-draft-prio-batch
    --prio-batch-draft --spec-draft-poll-batch --poll-batch-draft --spec-draft-n-min
    --spec-synth-len --spec-synth-rates --spec-draft-p-split --draft-p-split --spec-draft-p-min
    --draft-p-min
    --spec-draft-sampling --spec-ngram-mod-n-min --spec-ngram-mod-n-max --spec-ngram-mod-n-match
    --spec-ngram-simple-size-n --spec-ngram-simple-size-m --spec-ngram-simple-min-hits
    --spec-ngram-map-k-size-n --spec-ngram-map-k-size-m --spec-ngram-map-k-min-hits
    --spec-ngram-map-k4v-size-n --spec-ngram-map-k4v-size-m --spec-ngram-map-k4v-min-hits
    --spec-ngram-size-n --spec-ngram-size-m --spec-ngram-min-hits
    --draft --draft-n --draft-max --draft-min --draft-n-min
    --context-shift --no-context-shift -r --reverse-prompt -sp --special --warmup --no-warmup
    --spm-infill
    -cb --cont-batching -nocb --no-cont-batching --mmproj-auto --no-mmproj --no-mmproj-auto
    --video-fps --video-timestamp-interval --video-ffmpeg-dir -a --alias --tags --embd-normalize
    --host --port --reuse-port --path --cors-origins --cors-methods --cors-headers --cors-credentials
    --no-cors-credentials --api-prefix --ui-config --webui-config --ui-config-file --webui-config-file
    --ui-mcp-proxy --webui-mcp-proxy --no-ui-mcp-proxy --no-webui-mcp-proxy --tools --tools-runtime
    --mcp-servers-config --mcp-servers-json -ag --agent -no-ag --no-agent --ui --webui --no-ui --no-webui
    --api-key --api-key-file --ssl-key-file --ssl-cert-file --chat-template-kwargs -to --timeout
    --sse-ping-interval --threads-http --cache-prompt --no-cache-prompt --cache-reuse --metrics --props
    --slots --no-slots --slot-save-path --media-path --jinja --no-jinja --reasoning-format -rea
    --reasoning
    --reasoning-effort --reasoning-budget --reasoning-budget-message --reasoning-preserve
    --no-reasoning-preserve --chat-template --chat-template-file --skip-chat-parsing
    --no-skip-chat-parsing
    --prefill-assistant --no-prefill-assistant -sps --slot-prompt-similarity --sleep-idle-seconds
    --tts-use-guide-tokens
    """
)
"""Flags that do not change memory."""

_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")
_NO_PREDICTION = ("draft-eagle3", "draft-dflash", "draft-dspark")
"""Kinds of speculation whose contexts are not predicted."""


def uncounted(arguments: Sequence[str]) -> list[str]:
    """Return the flags among arguments that may change memory in other ways than is counted."""
    found = dict.fromkeys(flag for flag in _flags(arguments) if flag not in COUNTED | UNRELATED)
    if (split := last_of(arguments, "-sm", "--split-mode")) is not None and split[1] in ("row", "tensor"):
        found[f"{split[0]} {split[1]}"] = None
    kind = last_of(arguments, "--spec-type")
    if kind is not None and any(part in _NO_PREDICTION for part in kind[1].split(",")):
        found[f"{kind[0]} {kind[1]}"] = None
    return list(found)


def uncounted_in(command: Sequence[str]) -> list[str]:
    """Return what of a command may change memory: flags after the program, and variables before it.

    Nothing that is in a command is counted.
    """
    variables = [word.partition("=")[0] for word in command if word.startswith("LLAMA_ARG_") and "=" in word]
    programs = (nth for nth, word in enumerate(command) if PurePath(word).name.startswith("llama-server"))
    flags = command[next(programs, len(command)) + 1 :]
    return [*variables, *(flag for flag in _flags(flags) if flag not in UNRELATED)]


def _flags(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        name = word.partition("=")[0]
        if _FLAG.fullmatch(name):
            yield name.replace("_", "-") if name.startswith("--") else name
