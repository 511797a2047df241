"""Which running models a deletion would take files from."""

import pytest

from actors.model_names import HubName
from proxy.admin.control import shares_files


@pytest.mark.parametrize(
    ("deleted", "other", "shares"),
    [
        (HubName("org/a", "Q4"), HubName("org/a", "Q4"), True),
        (HubName("org/a", "Q4"), HubName("org/a", "Q8"), False),
        (HubName("org/a", "Q4"), HubName("ORG/A", None), True),
        (HubName("org/a", None), HubName("org/a", "Q8"), True),
        (HubName("org/a", None), HubName("org/b", None), False),
        (HubName("org/a", None), None, False),
    ],
)
def test_models_that_may_share_files(deleted: HubName, other: HubName | None, shares: bool) -> None:
    assert shares_files(deleted, other) is shares
