"""Format a summary of accesses as one HTML page in Korean and English, without scripts or other files.

``page.html`` has the fixed texts and the style. Its Content-Security-Policy lets the page load nothing, so even text
that is not escaped by mistake cannot make a browser contact another host.

The writers of a ledger choose names and justifications. Such text is escaped, its direction is isolated from the text
around it, and invisible or direction-changing characters are replaced by their code points.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

from consentd.audit import drawing
from consentd.audit.access_summary import DAY_MS, HOUR_MS, AccessSummary
from consentd.policy.dates import SEOUL

_TEMPLATE = Path(__file__).with_name("page.html")
_MAX_SERIES = 6
_MAX_NAME = 80
_MAX_TEXT = 600
_UNSHOWN = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})
_OTHERS = "그 밖 · others"
_PERMITTED = '<span class="yes">허용<br>permitted</span>'
_REFUSED = '<span class="no">거절<br>refused</span>'

_REASONS = {
    "NO_MATCHING_CONSENT": ("해당하는 동의 없음", "no consent speaks of it"),
    "DENIED_BY_CONSENT": ("동의·거부 의사로 거절", "a consent or an objection denies it"),
    "DENIED_BY_LAW": ("법령에 따른 금지", "law prohibits it"),
    "DENIED_BY_BREAK_GLASS": ("긴급 열람 불허", "break-glass is not allowed"),
    "DENIED_BY_IMPLICIT_POLICY": ("기본 정책에 따라 거절", "the implicit policy denies it"),
    "DENIED_BY_COMBINING": ("결합 규칙에 따라 거절", "combining rule denies it"),
    "UNKNOWN_CATEGORY": ("알 수 없는 정보 분류", "unknown category"),
    "UNREADABLE_CONSENT": ("읽을 수 없는 동의", "a consent cannot be read"),
    "CLOCK": ("시계 불일치로 판단 불가", "the clock disagrees with the ledger"),
    "DAMAGED_ROW": ("손상된 정책 표 행", "a row of the policy table is damaged"),
    "BEYOND_RECURRENCE": ("동의가 정한 전송 횟수 초과", "more often than the consent states"),
}
_UNITS = {1: ("시간별", "by hour"), 6: ("6시간별", "by six hours"), 24: ("일별", "by day"), 168: ("주별", "by week")}


def render(found: AccessSummary, *, made_s: int) -> str:
    """Return the page. *made_s* is the time of creation that the page shows, in POSIX seconds."""
    point, path = found.checkpoint, found.path
    days = found.unit_ms // DAY_MS
    unit_ko, unit_en = _UNITS.get(found.unit_ms // HOUR_MS, (f"{days:,}일별", f"by {days:,} days"))
    counts = {
        "size": point.size, "index": path.index, "entries": found.entries, "persons": found.persons,
        "permitted": found.kinds["ACCESS"], "refused": found.kinds["REFUSAL"],
        "break_glass_count": found.break_glass_count, "seal_count": found.seal_count,
        "beyond_permit": found.beyond_permit,
    }  # fmt: skip
    path_name = f"{path.index:,}번 항목의 머클 경로 · Merkle path of entry {path.index:,}"
    start, end = _when(found.start_ms), _when(found.end_ms)
    # INVARIANT: every value is HTML: a number, a time, or text that was escaped.
    return Template(_TEMPLATE.read_text("utf-8")).substitute(
        {name: f"{count:,}" for name, count in counts.items()},
        title=escape(_plain(point.origin, _MAX_NAME)), origin=_show(point.origin), root=point.root.hex(),
        start=start, end=end, made=_when(made_s * 1000), unit_ko=unit_ko, unit_en=unit_en, notes=_notes(found),
        by_organisation=_over_time(
            found, found.by_organisation, found.names, "이용기관별 열람 · accesses by organisation"
        ),
        by_caller=_over_time(found, found.by_caller, found.names, "요청기관별 열람 · accesses by caller"),
        by_purpose=_over_time(found, found.by_purpose, found.purposes, "이용 목적별 열람 · accesses by purpose"),
        refusals=_refusals(found), break_glass=_break_glass(found), gap_ko=_length(found.gap_ms, "시간", "분"),
        gap_en=_length(found.gap_ms), gaps=_gaps(found), skewed=_skewed(found),
        ribbon=drawing.ribbon(found, (start, end), what="체크포인트 · checkpoints"),
        path=drawing.merkle_path(path, point, what=path_name),
    )  # fmt: skip


# -- sections -------------------------------------------------------------------------------------------------


def _notes(found: AccessSummary) -> str:
    notes = ""
    if found.closed:
        notes += (
            f'<p class="no">열람·거절 {found.closed:,}건은 진술이 삭제되었거나 권한 밖이어서 아래에 나오지 않는다. · '
            f"{found.closed:,} accesses and refusals are not below: their statements are erased or outside the "
            "mandate.</p>"
        )
    if found.uncompared:
        notes += (
            f'<p class="no">전송 결과 {found.uncompared:,}건은 해당 열람을 읽을 수 없어 허용 범위와 비교하지 못했다. · '
            f"{found.uncompared:,} outcomes could not be compared with what was permitted: their accesses are not "
            "available.</p>"
        )
    if found.strangers:
        notes += (
            f'<p class="no">전송 결과 {found.strangers:,}건은 해당 열람에 관여하지 않은 자가 기록했다. · '
            f"{found.strangers:,} outcomes were reported by participants that had no part in the access.</p>"
        )
    if found.pruned:
        notes += (
            f'<p class="no">보존 기간이 지나 정리된 항목 {found.pruned:,}개는 세지 않았다. · '
            f"{found.pruned:,} leaves past their retention are pruned, and not counted.</p>"
        )
    return notes


def _over_time(
    found: AccessSummary, counts: Counter[tuple[int, str]], names: dict[str, tuple[str, str]], what: str
) -> str:
    totals: Counter[str] = Counter()
    for (_, name), count in counts.items():
        totals[name] += count
    if not totals:
        return _none(found)
    ranked = [name for name, _ in totals.most_common()]
    shown, rest = ranked[:_MAX_SERIES], ranked[_MAX_SERIES:]
    intervals = range(found.intervals)
    series = [(_name(names, name), [counts[at, name] for at in intervals]) for name in shown]
    if rest:
        series.append((_OTHERS, [sum(counts[at, name] for name in rest) for at in intervals]))
    labels = [_label(found, at) for at in intervals]
    columns = [("기간", "interval"), *((_show(name), "") for name, _ in series)]
    rows = [[labels[at], *(f"{values[at]:,}" for _, values in series)] for at in intervals]
    used = [row for at, row in enumerate(rows) if any(values[at] for _, values in series)]
    return f"<figure>{drawing.stacked_bars(series, labels, what=what)}</figure>{_numbers_of(what, columns, used)}"


def _refusals(found: AccessSummary) -> str:
    named = [(" · ".join(_REASONS.get(code, (code,))), count) for code, count in found.refusals.items()]
    named += [(_ground(found, code), count) for code, count in found.refused_consents.items()]
    rows = sorted(named, key=lambda row: -row[1])[:20]
    if not rows:
        return _none(found)
    what = "사유별 거절 · refusals by reason"
    table = _numbers_of(what, (("사유", "reason"), ("건", "count")), [(_show(name), f"{n:,}") for name, n in rows])
    return f"<figure>{drawing.bars(rows, what=what)}</figure>{table}"


def _break_glass(found: AccessSummary) -> str:
    if not found.break_glass:
        return _none(found)
    rows = [
        (
            f"{one.index:,}",
            _when(one.time_ms),
            _show(_name(found.names, one.caller)),
            _show(", ".join(_name(found.names, name) for name in (one.organisation, *one.others))),
            _show(_name(found.names, one.holder)),
            _PERMITTED if one.permitted else _REFUSED,
            _show(one.justification, _MAX_TEXT),
        )
        for one in found.break_glass
    ]
    columns = (
        ("항목", "entry"), ("시각", "time"), ("요청", "asked by"), ("이용기관", "who, and for or through whom"),
        ("제공기관", "holder"), ("결과", "outcome"), ("사유", "justification"),
    )  # fmt: skip
    table = _table(columns, rows, numbers=(0, 1), is_fixed=True)
    return table + _more(found.break_glass_count, len(found.break_glass))


def _gaps(found: AccessSummary) -> str:
    if not found.gaps:
        return _none()
    rows = [(f"{gap.index:,}", _when(gap.time_ms - gap.length_ms), _length(gap.length_ms)) for gap in found.gaps]
    columns = (("다음 항목", "next entry"), ("시작", "from"), ("길이", "length"))
    return _table(columns, rows, numbers=(0, 1, 2)) + _more(found.gap_count, len(found.gaps))


def _skewed(found: AccessSummary) -> str:
    if not found.skew_count:
        return ""
    listed = ", ".join(f"{index:,} ({skew / 1000:+.0f} s)" for index, skew in found.skewed[:20])
    return (
        f"<p>작성자 시계가 원장과 다른 항목 {found.skew_count:,}개 · entries whose author's clock differs: {listed}</p>"
    )


# -- tables ---------------------------------------------------------------------------------------------------


def _table(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, numbers: Sequence[int], is_fixed: bool = False
) -> str:
    """Return a table, which scrolls if it is wider than the page.

    Args:
        columns: Korean and English name of each column.
        rows: cells, HTML.
        numbers: indexes of the columns with numbers.
        is_fixed: the columns have the widths that the page's style sheet sets.
    """
    kinds = [' class="n"' if at in numbers else "" for at in range(len(columns))]
    head = "".join(
        f'<th scope="col"{kind}><span>{ko}</span><span lang="en">{en}</span></th>'
        for (ko, en), kind in zip(columns, kinds, strict=True)
    )
    lines = ("".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    fixed = ' class="fixed"' if is_fixed else ""
    # The table can get the focus, so that the keyboard can scroll the table.
    whole = f"<table{fixed}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{whole}</div>'


def _numbers_of(what: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """Return the numbers of a drawing as a collapsed table, for readers who cannot see the drawing."""
    found = _table(columns, rows, numbers=range(1, len(columns)))
    return f"<details><summary>표로 보기 · as a table: {escape(what)}</summary>{found}</details>"


def _more(count: int, listed: int) -> str:
    """Return a note that only the first *listed* of *count* rows are shown; empty if all are shown."""
    if count <= listed:
        return ""
    return f'<p class="muted">처음 {listed}건만 보임, 모두 {count:,}건 · the first {listed} of {count:,}</p>'


def _none(found: AccessSummary | None = None) -> str:
    """Return the note of an empty section. If statements are missing, the note claims nothing about these."""
    what = "열린 진술에는 없음 · none among the available statements" if found and found.closed else "없음 · none"
    return f'<p class="muted">{what}</p>'


# -- text -----------------------------------------------------------------------------------------------------


def _plain(text: str, most: int) -> str:
    """Return text without control and direction characters, and at most *most* characters of it."""
    visible = "".join(
        " " if char in "\t\n\r" else f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in _UNSHOWN else char
        for char in text[:most]
    )
    return visible if len(text) <= most else f"{visible}… (+{len(text) - most:,})"


def _show(text: str, most: int = 10_000) -> str:
    """Return text from a ledger as HTML, with isolated direction."""
    return f"<bdi>{escape(_plain(text, most))}</bdi>"


def _name(names: dict[str, tuple[str, str]], key: str) -> str:
    """Return the name of a participant or purpose, followed by the id (*key*) if another has the same name."""
    known = _joined(names.get(key, ("", "")))
    if not known:
        return _plain(key, _MAX_NAME)
    is_shared = sum(_joined(other) == known for other in names.values()) > 1
    return f"{known} [{_plain(key, _MAX_NAME)}]" if is_shared else known


def _ground(found: AccessSummary, code: str) -> str:
    """Return the ground of a refused consent: its code, and its name if the vocabulary has one."""
    return f"{_plain(code, _MAX_NAME)} {_joined(found.grounds.get(code, ('', '')))}".strip()


def _joined(name: tuple[str, str]) -> str:
    return " · ".join(dict.fromkeys(_plain(part, _MAX_NAME) for part in name if part))


def _label(found: AccessSummary, at: int) -> str:
    moment = _moment(found.start_ms + at * found.unit_ms)
    if moment is None:
        return str(at)
    return f"{moment:%m-%d}" if found.unit_ms >= DAY_MS else f"{moment:%d %H:%M}"


def _when(time_ms: int) -> str:
    moment = _moment(time_ms)
    return f"{time_ms:,} ms" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _moment(time_ms: int) -> datetime | None:
    """Return a time in Seoul; None if ``datetime`` cannot represent the leaf's time."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(SEOUL)
    except (OverflowError, ValueError, OSError):
        return None


def _length(ms: int, hour: str = " h", minute: str = " min") -> str:
    hours, minutes = divmod(ms // 60_000, 60)
    parts = [f"{hours:,}{hour}"] if hours else []
    return " ".join([*parts, f"{minutes}{minute}"] if minutes or not hours else parts)
