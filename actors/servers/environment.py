"""The environment variables that model servers inherit from the gateway.

The list contains only variables that a server may need: paths of programs and libraries, the language, and
settings of CUDA, ROCm, Vulkan and the like. All others may be secret. llama.cpp's own variables are left
out, because the memory prediction relies on flags alone. A command may set more: `command: env NAME=value
llama-server`.
"""

import re
from collections.abc import Mapping

_WORDS = """
PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TERM HOSTNAME TMPDIR TMP TEMP HTTP_PROXY HTTPS_PROXY
ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR VIRTUAL_ENV DISPLAY WAYLAND_DISPLAY INVOCATION_ID
WSL_DISTRO_NAME WSL_INTEROP SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT USERPROFILE USERNAME
APPDATA LOCALAPPDATA PROGRAMDATA PROGRAMFILES NUMBER_OF_PROCESSORS PROCESSOR_ARCHITECTURE
"""
_NAMES = frozenset(_WORDS.split())
_FAMILIES = (
    *("LC_", "XDG_", "LD_", "DYLD_", "GLIBC_", "MALLOC_", "PYTHON", "CONDA_", "NIX_", "GUIX_"),
    *("GGML_", "OMP_", "GOMP_", "KMP_", "MKL", "OPENBLAS_", "GOTO_", "BLIS_", "TBB", "NUMA"),
    *("CUDA", "NVIDIA_", "NV_", "__NV_", "__GL", "NCCL_", "CUBLAS", "CUDNN_", "MIG_"),
    *("HIP", "HSA_", "ROC", "RCCL_", "AMD_", "AMDGPU", "GPU_", "MIOPEN_", "TENSILE_", "COMGR_"),
    *("VK_", "VULKAN_", "MESA_", "RADV_", "ANV_", "NVK_", "ACO_", "GALLIUM_", "DRI_", "LIBGL_"),
    *("SYCL_", "ONEAPI_", "ONEDNN_", "DNNL", "CMPLR_", "ZE_", "ZES_", "UR_", "OCL_", "OPENCL", "IGC_", "NEO"),
    *("INTEL_", "MTL_", "METAL_", "MUSA_", "ASCEND_", "CANN_", "OPENVINO", "QNN_", "ADSP_", "HEXAGON_"),
)
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|APIKEY|(?:^|_)(?:KEYS?|PASS|PWD|PAT|AUTH|COOKIES?|DSN)(?:_|$)"
)
_WITH_CREDENTIALS = re.compile(r"://[^/@\s]*@")


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that a child process inherits."""
    return {name: value for name, value in environment.items() if _is_harmless(name.upper(), value)}


def _is_harmless(name: str, value: str) -> bool:
    known = name in _NAMES or name.startswith(_FAMILIES)
    return known and not _SECRET.search(name) and not _WITH_CREDENTIALS.search(value)
