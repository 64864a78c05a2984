"""Versions of notices, as tests publish them."""

from collections.abc import Sequence
from typing import Any

from cases.daemons import Running, request_id
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st


def make_notice(
    notice_id: str, version: int = 1, *, languages: Sequence[str] = ("ko", "en"), **more: Any
) -> st.NoticeStatement:
    """Return a version of a notice: in each language its text has the hash ``text_hash``."""
    texts = {one: st.NoticeText(content_sha256=text_hash(version, one)) for one in languages}
    fields = {"notice_id": notice_id, "version": version, "title": {"ko": "고지"}, "texts": texts}
    return st.NoticeStatement(**{**fields, **more})


def text_hash(version: int, language: str = "ko") -> bytes:
    """Return the hash of the text of a version in a language."""
    return f"{version} {language}".encode().ljust(32, b".")


def publish_notice(running: Running, notice_id: str, version: int = 1, **more: Any) -> st.NoticeStatement:
    """Publish a version of a notice, as the operator does."""
    made = make_notice(notice_id, version, **more)
    request = rs.PublishNoticeRequest(request_id=request_id(), attested=made)
    running.registry.PublishNotice(request, metadata=running.as_("operator"))
    return made
