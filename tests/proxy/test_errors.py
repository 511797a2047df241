"""Rejections and their statuses."""

from actors.errors import Rejection
from proxy.errors import REJECTIONS


def test_every_rejection_has_its_status() -> None:
    assert set(REJECTIONS) == set(Rejection.__subclasses__())
