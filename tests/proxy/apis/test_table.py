"""Every API that has a folder is in the table."""

import importlib
from pathlib import Path

import pytest

import proxy.apis
from proxy.apis.table import ENDPOINTS, ENDS, dialect_of

FOLDERS = sorted(file.parent.name for file in Path(proxy.apis.__file__).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_table_has_what_a_folder_has(folder: str) -> None:
    own = importlib.import_module(f"proxy.apis.{folder}.endpoints").ENDPOINTS
    assert own
    assert set(own) <= set(ENDPOINTS)


def test_a_path_is_one_endpoint_and_has_one_dialect() -> None:
    paths = [path for endpoint in ENDPOINTS for path in (endpoint.path, *endpoint.aliases)]
    assert len(paths) == len(set(paths))
    for endpoint in ENDPOINTS:
        for path in (endpoint.path, *endpoint.aliases):
            assert dialect_of(path) is endpoint.dialect


def test_whatever_streams_ends() -> None:
    assert len(ENDS) == 5
    for endpoint in ENDPOINTS:
        assert (endpoint.end is not None) == (endpoint.assembler is not None)
