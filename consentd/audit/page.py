"""Format a summary of accesses as one HTML page in Korean and English, without scripts or other files."""

from collections import Counter
from datetime import UTC, datetime

from consentd.audit import drawing, markup
from consentd.audit.access_summary import DAY_MS, HOUR_MS, AccessSummary
from consentd.core.checkpoint import Checkpoint
from consentd.policy.dates import SEOUL

_MAX_SERIES = 6
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
    "R01_REPRESENTATIVE_UNVERIFIED": ("법정대리인 동의 미확인", "R01: representative unverified"),
    "R02_ACCESS_LIMITED": ("열람 제한·거절 사유", "R02: access is limited by law"),
    "R03_THIRD_PARTY_RIGHTS": ("제3자 권리 침해", "R03: rights of a third party"),
    "R04_AGENT_UNVERIFIED": ("대리인 미확인", "R04: agent unverified"),
    "R05_UNSPECIFIED_ITEMS": ("요구사항 미특정", "R05: legal items missing"),
    "R06_IDENTITY_UNVERIFIED": ("본인 미확인", "R06: identity unverified"),
    "R07_ILLEGITIMATE": ("부당한 요구", "R07: illegitimate, stolen credentials"),
    "R08_RECIPIENT_INELIGIBLE": ("전송 불가 상대", "R08: recipient is not eligible"),
    "R09_CLEAR_INFRINGEMENT": ("명백한 침해", "R09: clear infringement"),
    "R10_EXCESSIVE": ("과도한 반복 요구", "R10: excessive repetition"),
    "R11_DECEPTION": ("기망·협박 의심", "R11: deception or threat suspected"),
}
_UNITS = {1: ("시간별", "by hour"), 6: ("6시간별", "by six hours"), 24: ("일별", "by day"), 168: ("주별", "by week")}


def render(found: AccessSummary, *, made_s: int) -> str:
    """Return the page. *made_s* is the time that it shows as its own, POSIX seconds."""
    point = found.checkpoint
    body = "".join(
        (
            _head(found, made_s),
            _facts(found),
            _over_time(found, found.by_organisation, found.names, "이용기관별 열람", "accesses by organisation"),
            _over_time(found, found.by_purpose, found.purposes, "이용 목적별 열람", "accesses by purpose"),
            _refusals(found),
            _break_glass(found),
            _silence(found),
            _ribbon(found),
            _path(found),
        )
    )
    return markup.frame(f"{markup.plain(point.origin, markup.MAX_NAME)} 감사 보고서 · audit report", body, _foot(point))


def _foot(point: Checkpoint) -> str:
    return (
        f"<p>{markup.show(point.origin)} · 크기 size {point.size:,} · 루트 root <code>{point.root.hex()}</code></p>"
        "<p>이 보고서는 로그가 서명한 트리의 모든 항목에서 계산했다. 보고되지 않은 열람은 나타나지 않는다. · "
        "Counted from every entry of a tree that the log signed. An access that nobody reported is not in it."
        "</p>"
    )


def _head(found: AccessSummary, made_s: int) -> str:
    made = datetime.fromtimestamp(made_s, UTC).astimezone(SEOUL)
    return (
        '<h1>동의 원장 감사 보고서<small lang="en">Consent ledger, audit report</small></h1>'
        f'<p class="muted">{markup.show(found.checkpoint.origin)} · {_when(found.start_ms)} – {_when(found.end_ms)} · '
        f"작성 made {made:%Y-%m-%d %H:%M} KST</p>"
    )


def _facts(found: AccessSummary) -> str:
    permitted = found.kinds["ACCESS"]
    refused = found.kinds["REFUSAL"]
    rows = (
        (found.entries, "항목", "entries"),
        (found.persons, "등록된 사람", "persons enrolled"),
        (permitted, "허용된 열람", "accesses permitted"),
        (refused, "거절", "refusals"),
        (found.break_glass_count, "긴급 열람", "break-glass"),
        (found.seal_count, "체크포인트", "checkpoints"),
    )
    notes = []
    if found.closed:
        notes.append(
            f"열람·거절 {found.closed:,}건은 진술이 삭제되었거나 권한 밖이어서 아래에 나오지 않는다. · "
            f"{found.closed:,} accesses and refusals are not below: their statements are erased or outside the mandate."
        )
    if found.pruned:
        notes.append(
            f"보존 기간이 지나 정리된 항목 {found.pruned:,}개는 세지 않았다. · "
            f"{found.pruned:,} leaves past their retention are pruned, and not counted."
        )
    note = "".join(f'<p class="no">{one}</p>' for one in notes)
    return (
        '<div class="facts">' + "".join(
            f'<div><b>{count:,}</b><span>{ko}</span><span lang="en">{en}</span></div>' for count, ko, en in rows
        )
        + "</div>" + note
    )  # fmt: skip


def _over_time(
    found: AccessSummary, counts: Counter[tuple[int, str]], names: dict[str, tuple[str, str]], ko: str, en: str
) -> str:
    totals: Counter[str] = Counter()
    for (_, name), count in counts.items():
        totals[name] += count
    ranked = [name for name, _ in totals.most_common()]
    shown, rest = ranked[:_MAX_SERIES], ranked[_MAX_SERIES:]
    series = [(_name(names, name), [counts[at, name] for at in range(found.intervals)]) for name in shown]
    if rest:
        series.append((_OTHERS, [sum(counts[at, name] for name in rest) for at in range(found.intervals)]))
    days = found.unit_ms // DAY_MS
    unit_ko, unit_en = _UNITS.get(found.unit_ms // HOUR_MS, (f"{days:,}일별", f"by {days:,} days"))
    title = markup.heading(f"{ko}, {unit_ko}", f"{en}, {unit_en}")
    if not series:
        return title + _nothing(found)
    labels = [_label(found, at) for at in range(found.intervals)]
    what = f"{ko} · {en}"
    shown_at = [at for at in range(found.intervals) if any(values[at] for _, values in series)]
    rows = [(labels[at], *(f"{values[at]:,}" for _, values in series)) for at in shown_at]
    columns = [("기간", "interval"), *((markup.show(name), "") for name, _ in series)]
    return (
        f"{title}<figure>{drawing.stacked_bars(series, labels, what=what)}"
        f"{drawing.legend([(name, sum(values)) for name, values in series])}</figure>"
        f"{markup.numbers_of(what, columns, rows)}"
    )


def _refusals(found: AccessSummary) -> str:
    title = markup.heading("사유별 거절", "refusals by reason")
    rows = [(" · ".join(_REASONS.get(code, (code,))), count) for code, count in found.refusals.most_common(20)]
    if not rows:
        return title + _nothing(found)
    what = "사유별 거절 · refusals by reason"
    cells = [(markup.show(name), f"{count:,}") for name, count in rows]
    table = markup.numbers_of(what, (("사유", "reason"), ("건", "count")), cells)
    return f"{title}<figure>{drawing.bars(rows, what=what)}</figure>{table}"


def _break_glass(found: AccessSummary) -> str:
    title = markup.heading("긴급 열람", "break-glass")
    if not found.break_glass:
        return title + _nothing(found)
    rows = [
        (
            f"{one.index:,}",
            _when(one.time_ms),
            markup.show(_name(found.names, one.organisation)),
            markup.show(_name(found.names, one.holder)),
            _PERMITTED if one.permitted else _REFUSED,
            markup.show(one.justification, markup.MAX_TEXT),
        )
        for one in found.break_glass
    ]
    columns = (
        ("항목", "entry"), ("시각", "time"), ("이용기관", "who"), ("제공기관", "holder"), ("결과", "outcome"),
        ("사유", "justification"),
    )  # fmt: skip
    table = markup.table(columns, rows, numbers=(0, 1), widths=(8, 17, 22, 14, 12, 27))
    return title + table + markup.more(found.break_glass_count, len(found.break_glass))


def _silence(found: AccessSummary) -> str:
    title = markup.heading("공백과 시계", "gaps and clocks")
    rows = [(f"{gap.index:,}", _when(gap.time_ms - gap.length_ms), _length(gap.length_ms)) for gap in found.gaps]
    columns = (("다음 항목", "next entry"), ("시작", "from"), ("길이", "length"))
    gaps = (
        f'<p class="muted">{_length(found.gap_ms, "시간", "분")} 넘게 기록이 없던 때 · '
        f"silent for more than {_length(found.gap_ms)}</p>"
    )
    gaps += markup.table(columns, rows, numbers=(0, 1, 2)) if rows else markup.none()
    gaps += markup.more(found.gap_count, len(found.gaps))
    if not found.skew_count:
        return title + gaps
    listed = ", ".join(f"{index:,} ({skew / 1000:+.0f} s)" for index, skew in found.skewed[:20])
    return title + gaps + (
        f"<p>작성자 시계가 원장과 다른 항목 {found.skew_count:,}개 · entries whose author's clock differs: {listed}</p>"
    )  # fmt: skip


def _ribbon(found: AccessSummary) -> str:
    gaps = [(gap.time_ms - gap.length_ms, gap.time_ms) for gap in found.gaps]
    drawn = drawing.ribbon(
        found.seals, size=found.checkpoint.size, start_ms=found.start_ms, end_ms=found.end_ms, gaps=gaps,
        labels=(_when(found.start_ms), _when(found.end_ms)), what="체크포인트 · checkpoints",
    )  # fmt: skip
    return markup.heading("체크포인트", "checkpoints: how the signed tree grew") + f"<figure>{drawn}</figure>"


def _path(found: AccessSummary) -> str:
    path, point = found.path, found.checkpoint
    if path is None:
        return ""
    what = f"{path.index:,}번 항목의 머클 경로 · Merkle path of entry {path.index:,}"
    drawn = drawing.merkle_path(path.index, point.size, path.leaf_hash, path.hashes, point.root, what=what)
    return (
        markup.heading(f"{path.index:,}번 항목에서 루트까지", f"from entry {path.index:,} to the root")
        + '<p class="muted">아래가 항목의 해시, 위가 로그가 서명한 루트. 옆의 해시들이 포함 증명이다. · '
        "The entry's hash is at the bottom, the root that the log signed at the top; the other hashes prove it.</p>"
        f"<figure>{drawn}</figure>"
    )


def _name(names: dict[str, tuple[str, str]], key: str) -> str:
    """Return the name of a participant or purpose, and its id too if another one has the same name."""
    known = _joined(names.get(key, ("", "")))
    if not known:
        return markup.plain(key, markup.MAX_NAME)
    is_shared = sum(_joined(other) == known for other in names.values()) > 1
    return f"{known} [{markup.plain(key, markup.MAX_NAME)}]" if is_shared else known


def _joined(name: tuple[str, str]) -> str:
    return " · ".join(dict.fromkeys(markup.plain(part, markup.MAX_NAME) for part in name if part))


def _nothing(found: AccessSummary) -> str:
    """Return the note of an empty section. If statements are missing, it does not say that there was nothing."""
    if not found.closed:
        return markup.none()
    return '<p class="muted">열린 진술에는 없음 · none among the available statements</p>'


def _label(found: AccessSummary, at: int) -> str:
    moment = _moment(found.start_ms + at * found.unit_ms)
    if moment is None:
        return str(at)
    return f"{moment:%m-%d}" if found.unit_ms >= DAY_MS else f"{moment:%d %H:%M}"


def _when(time_ms: int) -> str:
    moment = _moment(time_ms)
    return f"{time_ms:,} ms" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _moment(time_ms: int) -> datetime | None:
    """Return a time in Seoul; None: a leaf has a time that ``datetime`` cannot represent."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(SEOUL)
    except (OverflowError, ValueError, OSError):
        return None


def _length(ms: int, hour: str = " h", minute: str = " min") -> str:
    hours, minutes = divmod(ms // 60_000, 60)
    parts = [f"{hours:,}{hour}"] if hours else []
    return " ".join([*parts, f"{minutes}{minute}"] if minutes or not hours else parts)
