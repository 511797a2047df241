"""What an installation has: the package `llama_smart_proxy`, and all else in a folder inside it."""

import shutil

from setuptools import find_packages, setup

HOUSE = "llama_smart_proxy._house"

# What an earlier build has left there would be installed too.
shutil.rmtree("build/lib", ignore_errors=True)

setup(
    packages=[
        "llama_smart_proxy",
        HOUSE,
        *(f"{HOUSE}.{name}" for name in find_packages(include=["actors*", "agents*", "proxy*"])),
    ],
    package_dir={HOUSE: "."},
    package_data={
        HOUSE: ["config.yaml"],
        f"{HOUSE}.actors.demo": ["chat_template.jinja"],
        f"{HOUSE}.proxy.page": ["static/**/*"],
    },
    entry_points={"console_scripts": ["llama-smart-proxy = llama_smart_proxy:main"]},
)
