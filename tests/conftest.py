"""What holds for all tests: none of them measures time, and a machine that is busy fails none.

A module that needs a daemon to call gets ``running``, which serves all its tests, and ``subject``, a person of its own
for each test; or it defines fixtures of these names itself.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cases.daemons import Running
    from consentd.v1 import consent_pb2 as pb

settings.register_profile("consentd", deadline=None)
settings.load_profile("consentd")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Running]":
    from cases.services import serve

    yield from serve(tmp_path_factory.mktemp("service"))


@pytest.fixture
def subject(running: "Running") -> "pb.Subject":
    from cases.services import new_identifier

    return running.enrol(new_identifier())
