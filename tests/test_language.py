"""Names in several languages: which tags and texts may be written, and which text a reader is shown."""

import pytest

from consentd.errors import InvalidError
from consentd.policy.language import (
    MAX_LANGUAGES,
    MAX_TEXT_BYTES,
    best_text,
    canonical_tag,
    check_name,
    check_tag,
    is_korean,
)
from consentd.statements.payloads import check_texts
from consentd.v1 import statement_pb2 as st

CANONICAL = {
    "ko": "ko", "KO": "ko", "ko-kr": "ko-KR", "zh-HANT-tw": "zh-Hant-TW", "sr-LATN": "sr-Latn", "es-419": "es-419",
    "de-CH-1901": "de-CH-1901", "sl-ROZAJ-biske": "sl-rozaj-biske", "und": "und", "kor": "kor",
    "de-Latn-CH-1996-abcdefgh": "de-Latn-CH-1996-abcdefgh",
}  # fmt: skip
NO_TAGS = (
    "", "k", "korean", "ko_KR", "ko-", "-ko", "ko--KR", "ko-KR-", "ko KR", "ko\n", " ko", "k1", "ko-K", "ko-1", "ko-1a",
    "ko-KR-KR", "zh-cmn-Hans", "en-a-bbb", "x-private", "en-x-private", "i-klingon", "한국어", "ｋｏ", "ko-ＫＲ", "ſr",
    "de-1996-1996", "de-rozaj-ROZAJ", "es-٤١٩", "de" + "-abcdefgh-12345678" * 2,
)  # fmt: skip


@pytest.mark.parametrize(("tag", "canonical"), CANONICAL.items())
def test_a_tag_has_one_case(tag: str, canonical: str) -> None:
    assert canonical_tag(tag) == canonical
    assert canonical_tag(canonical) == canonical
    check_tag(canonical)
    if tag != canonical:
        with pytest.raises(InvalidError):
            check_tag(tag)


@pytest.mark.parametrize("tag", NO_TAGS)
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(InvalidError):
        canonical_tag(tag)


@pytest.mark.parametrize(
    "name",
    [
        {},
        {"ko": ""},
        {"ko": " \t"},
        {"ko": "병원", "en": ""},
        {"KO": "병원"},
        {"ko": "병원", "KO": "병원"},
        {"": "Hospital"},
    ],
)
def test_a_name_that_is_not_in_order_is_refused(name: dict[str, str]) -> None:
    with pytest.raises(InvalidError) as caught:
        check_name(name)
    assert caught.value.reason == "INVALID_REQUEST"


def test_a_name_has_limits() -> None:
    tags = [f"{first}{second}" for first in "abcdef" for second in "abcdef"]
    check_name(dict.fromkeys(tags[:MAX_LANGUAGES], "x" * MAX_TEXT_BYTES))
    for name in (dict.fromkeys(tags[: MAX_LANGUAGES + 1], "x"), {"ko": "가" * (MAX_TEXT_BYTES // 3 + 1)}):
        with pytest.raises(InvalidError) as caught:
            check_name(name)
        assert caught.value.reason == "TOO_LARGE"


@pytest.mark.parametrize("name", [{"ko": "x" * 2_049}, {"x" * 2_049: "ko"}])
def test_the_texts_of_a_map_are_texts_of_the_statement(name: dict[str, str]) -> None:
    with pytest.raises(InvalidError) as caught:
        check_texts(st.ParticipantStatement(name=name))
    assert caught.value.reason == "TOO_LARGE"
    with pytest.raises(InvalidError):
        check_texts(st.VocabularyStatement(codes=[st.Code(name=name)]))


NAME = {"ko": "병원", "en": "hospital", "zh": "医院", "zh-Hant": "醫院", "pt-BR": "hospital do Brasil"}


@pytest.mark.parametrize(
    ("language", "shown"),
    [
        ("ko", "병원"), ("ko-KR", "병원"), ("KO-kr", "병원"), ("en-GB", "hospital"), ("zh-Hant-TW", "醫院"),
        ("zh-Hans-CN", "医院"), ("pt-BR", "hospital do Brasil"), ("pt", "병원"), ("fr", "병원"), ("", "병원"),
    ],
)  # fmt: skip
def test_a_reader_is_shown_the_best_text(language: str, shown: str) -> None:
    assert best_text(NAME, language) == shown
    assert best_text(dict(reversed(NAME.items())), language) == shown


def test_without_korean_a_reader_is_shown_english_and_else_the_first() -> None:
    assert best_text({"de": "Klinik", "en": "clinic"}, "fr") == "clinic"
    assert best_text({"pl": "szpital", "de": "Klinik"}, "fr") == "Klinik"
    assert best_text({"ko": "", "de": "Klinik"}, "ko") == "Klinik"  # as a ledger that others wrote may have it
    assert best_text({"KO": "병원", "de": "Klinik"}, "ko") == "병원"
    assert best_text({}, "ko") == ""


def test_the_programs_own_words_are_korean_or_english() -> None:
    assert all(map(is_korean, ("ko", "ko-KR", "KO")))
    assert not any(map(is_korean, ("kok", "en", "fr", "")))
