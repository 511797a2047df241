"""What a model server gets of the gateway's environment."""

import pytest

from actors.servers.environment import inherited

NEEDED = """
PATH HOME LANG LC_ALL TZ TMPDIR LD_LIBRARY_PATH LD_PRELOAD XDG_CACHE_HOME PYTHONPATH SSL_CERT_FILE
CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_CACHE_PATH NVIDIA_VISIBLE_DEVICES NCCL_DEBUG
HSA_OVERRIDE_GFX_VERSION HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES ROCBLAS_TENSILE_LIBPATH
AMD_VULKAN_ICD GGML_CUDA_FORCE_MMQ GGML_VK_VISIBLE_DEVICES GGML_METAL_PATH_RESOURCES
VK_ICD_FILENAMES VK_LAYER_PATH MESA_VK_DEVICE_SELECT RADV_PERFTEST ONEAPI_DEVICE_SELECTOR
SYCL_CACHE_PERSISTENT ZES_ENABLE_SYSMAN OMP_NUM_THREADS GOMP_CPU_AFFINITY MUSA_VISIBLE_DEVICES
SystemRoot http_proxy NO_PROXY
"""
KEPT_BACK = """
HF_TOKEN HUGGING_FACE_HUB_TOKEN HF_ENDPOINT LLAMA_API_KEY LLAMA_ARG_CTX_SIZE LLAMA_ARG_HOST
LLAMA_CACHE LLAMA_SMART_PROXY_OWNER AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AZURE_CLIENT_SECRET
OPENAI_API_KEY GOOGLE_APPLICATION_CREDENTIALS GITHUB_TOKEN GITHUB_PAT PGPASSWORD DATABASE_URL
SENTRY_DSN SSH_AUTH_SOCK KUBECONFIG NVIDIA_API_KEY CONDA_TOKEN XDG_SECRET PYTHON_KEY CUDA_AUTH
WHATEVER_I_CALL_IT hub_token
"""


@pytest.mark.parametrize("name", NEEDED.split())
def test_what_a_server_may_need(name: str) -> None:
    assert inherited({name: "1"}) == {name: "1"}


@pytest.mark.parametrize("name", KEPT_BACK.split())
def test_what_is_kept_back(name: str) -> None:
    assert inherited({name: "1"}) == {}


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        ("http://proxy:3128", True),
        ("proxy:3128", True),
        ("http://user:pass@proxy:3128", False),
        ("socks5://token@proxy", False),
    ],
)
def test_a_proxy_with_credentials_is_kept_back(value: str, passed: bool) -> None:
    assert ("HTTPS_PROXY" in inherited({"HTTPS_PROXY": value})) is passed
