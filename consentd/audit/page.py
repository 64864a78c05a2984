"""Turn a summary into one HTML page: Korean and English side by side, no script, nothing loaded, made to be printed."""

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from html import escape

from consentd.audit import drawing
from consentd.audit.report import DAY_MS, MAX_LISTED, Summary

_SEOUL = timezone(timedelta(hours=9), "KST")
_MAX_SERIES = 6
_OTHERS = "그 밖 · others"

_STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,"Apple SD Gothic Neo","Malgun Gothic","Noto Sans KR",sans-serif;color:#1d2733;
 margin:0 auto;max-width:1020px;padding:28px 30px 60px;background:#fff}
h1{font-size:26px;margin:0 0 2px;letter-spacing:-.01em}
h2{font-size:18px;margin:38px 0 8px;border-top:1px solid #dfe4ea;padding-top:18px}
h1 small,h2 small{font-weight:400;color:#5f6b78;font-size:.72em;margin-left:.5em}
p{margin:6px 0}.muted{color:#5f6b78}
svg{display:block;width:100%;height:auto;font-family:inherit}
.facts{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0 6px}
.facts div{flex:1 0 140px;border:1px solid #dfe4ea;border-radius:8px;padding:9px 12px}
.facts b{display:block;font-size:21px;font-variant-numeric:tabular-nums}
.facts span{color:#5f6b78;font-size:12.5px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;margin:2px 0 0 54px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
table{border-collapse:collapse;width:100%;font-size:13.5px;margin-top:6px}
th{text-align:left;color:#5f6b78;font-weight:500;border-bottom:1px solid #b9c2cc;padding:4px 8px 4px 0}
td{border-bottom:1px solid #eceff3;padding:5px 8px 5px 0;vertical-align:top;overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:12.5px ui-monospace,monospace;overflow-wrap:anywhere}
.no{color:#b0413e}.yes{color:#3b8f5a}
footer{margin-top:40px;border-top:1px solid #dfe4ea;padding-top:12px;color:#5f6b78;font-size:13px}
@media print{body{max-width:none;padding:0;font-size:11.5pt}h2,h2+p,thead{break-after:avoid}
 svg,.facts,tr{break-inside:avoid}
 @page{margin:16mm 14mm}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

_REASONS = {
    "NO_MATCHING_CONSENT": ("해당하는 동의 없음", "no consent speaks of it"),
    "DENIED_BY_CONSENT": ("동의·거부 의사로 거절", "a consent or an objection denies it"),
    "DENIED_BY_LAW": ("법령에 따른 금지", "law prohibits it"),
    "DENIED_BY_BREAK_GLASS": ("긴급 열람 불허", "break-glass is not allowed"),
    "DENIED_BY_IMPLICIT_POLICY": ("기본 정책에 따라 거절", "the implicit policy denies it"),
    "DENIED_BY_COMBINING": ("결합 규칙에 따라 거절", "combining rule denies it"),
    "UNKNOWN_CATEGORY": ("알 수 없는 정보 분류", "unknown category"),
    "UNREADABLE_CONSENT": ("읽을 수 없는 동의", "a consent cannot be read"),
    "R05_UNSPECIFIED_ITEMS": ("요구사항 미특정", "R05: legal items missing"),
}
_UNITS = {1: ("시간별", "by hour"), 6: ("6시간별", "by six hours"), 24: ("일별", "by day"), 168: ("주별", "by week")}


def render(found: Summary, *, made_s: int) -> str:
    """Return the page of a summary, made at *made_s*, POSIX seconds."""
    point = found.checkpoint
    body = "".join(
        (
            _head(found, made_s),
            _facts(found),
            _over_time(found, found.by_organisation, found.names, "이용기관별 열람", "accesses by organisation"),
            _over_time(found, found.by_purpose, found.purposes, "이용 목적별 열람", "accesses by purpose"),
            _refusals(found),
            _urgent(found),
            _silence(found),
            _ribbon(found),
            _path(found),
            f"<footer><p>{escape(point.origin)} · 크기 size {point.size:,} · "
            f"루트 root <code>{point.root.hex()}</code></p>"
            "<p>이 보고서는 로그가 서명한 트리의 모든 항목에서 계산했다. 보고되지 않은 열람은 나타나지 않는다. · "
            "Added up from every entry of a tree that the log signed. An access that nobody reported does not show."
            "</p></footer>",
        )
    )
    return (
        '<!doctype html><html lang="ko"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(point.origin)} 감사 보고서 · audit report</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _head(found: Summary, made_s: int) -> str:
    made = datetime.fromtimestamp(made_s, UTC).astimezone(_SEOUL)
    return (
        "<h1>동의 원장 감사 보고서<small>Consent ledger, audit report</small></h1>"
        f'<p class="muted">{escape(found.checkpoint.origin)} · {_when(found.start_ms)} – {_when(found.end_ms)} · '
        f"작성 made {made:%Y-%m-%d %H:%M} KST</p>"
    )


def _facts(found: Summary) -> str:
    permitted = sum(found.by_organisation.values())
    refused = found.kinds["REFUSAL"]
    rows = (
        (found.entries, "항목 · entries"),
        (found.persons, "등록된 사람 · persons enrolled"),
        (permitted, "허용된 열람 · accesses permitted"),
        (refused, "거절 · refusals"),
        (found.urgent_count, "긴급 열람 · break-glass"),
        (found.seal_count, "체크포인트 · checkpoints"),
    )
    note = ""
    if found.closed:
        note = (
            f'<p class="no">열람·거절 {found.closed:,}건은 진술이 삭제되었거나 권한 밖이어서 아래에 나오지 않는다. · '
            f"{found.closed:,} accesses and refusals are erased or outside the mandate, and do not show below.</p>"
        )
    return (
        '<div class="facts">' + "".join(f"<div><b>{count:,}</b><span>{label}</span></div>" for count, label in rows)
        + "</div>" + note
    )  # fmt: skip


def _over_time(
    found: Summary, counts: Counter[tuple[int, str]], names: dict[str, tuple[str, str]], ko: str, en: str
) -> str:
    totals: Counter[str] = Counter()
    for (_, name), count in counts.items():
        totals[name] += count
    ranked = [name for name, _ in totals.most_common()]
    shown, rest = ranked[:_MAX_SERIES], ranked[_MAX_SERIES:]
    series = [(_name(names, name), [counts[at, name] for at in range(found.intervals)]) for name in shown]
    if rest:
        series.append((_OTHERS, [sum(counts[at, name] for name in rest) for at in range(found.intervals)]))
    unit_ko, unit_en = _UNITS.get(found.unit_ms // 3_600_000, ("4주별", "by four weeks"))
    title = f"<h2>{ko}<small>{en}, {unit_ko} {unit_en}</small></h2>"
    if not series:
        return title + _none()
    labels = [_label(found, at) for at in range(found.intervals)]
    what = f"{ko} · {en}"
    return title + drawing.stacked_bars(series, labels, what=what) + drawing.legend([
        f"{name} ({sum(values):,})" for name, values in series
    ])  # fmt: skip


def _refusals(found: Summary) -> str:
    title = "<h2>사유별 거절<small>refusals by reason</small></h2>"
    rows = [(" · ".join(_REASONS.get(code, (code,))), count) for code, count in found.refusals.most_common(20)]
    return title + (drawing.bars(rows, what="사유별 거절 · refusals by reason") if rows else _none())


def _urgent(found: Summary) -> str:
    title = "<h2>긴급 열람<small>break-glass</small></h2>"
    if not found.urgent:
        return title + _none()
    rows = "".join(
        f'<tr><td class="n">{one.index:,}</td><td class="n">{_when(one.time_ms)}</td>'
        f"<td>{escape(_name(found.names, one.organisation))}</td><td>{escape(_name(found.names, one.holder))}</td>"
        f'<td class="{"yes" if one.permitted else "no"}">{"허용 permitted" if one.permitted else "거절 refused"}</td>'
        f"<td>{escape(one.justification)}</td></tr>"
        for one in found.urgent
    )
    return (
        title + '<table><thead><tr><th class="n">항목 entry</th><th class="n">시각 time</th><th>이용기관 who</th>'
        "<th>제공기관 holder</th><th>결과 outcome</th><th>사유 justification</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{_more(found.urgent_count, len(found.urgent))}"
    )


def _silence(found: Summary) -> str:
    title = "<h2>공백과 시계<small>gaps and clocks</small></h2>"
    rows = "".join(
        f'<tr><td class="n">{gap.index:,}</td><td class="n">{_when(gap.time_ms - gap.length_ms)}</td>'
        f'<td class="n">{_length(gap.length_ms)}</td></tr>'
        for gap in found.gaps
    )
    limit = _length(found.gap_ms)
    gaps = f'<p class="muted">{limit} 이상 기록이 없던 때 · silent for more than {limit}</p>' + (
        '<table><thead><tr><th class="n">다음 항목 next entry</th><th class="n">시작 from</th>'
        f'<th class="n">길이 length</th></tr></thead><tbody>{rows}</tbody></table>'
        f"{_more(found.gap_count, len(found.gaps))}"
        if rows
        else _none()
    )
    if not found.skew_count:
        return title + gaps
    listed = ", ".join(f"{index:,} ({skew / 1000:+.0f} s)" for index, skew in found.skewed[:20])
    return title + gaps + (
        f"<p>작성자 시계가 원장과 다른 항목 {found.skew_count:,}개 · entries whose author's clock differs: {listed}</p>"
    )  # fmt: skip


def _ribbon(found: Summary) -> str:
    gaps = [(gap.time_ms - gap.length_ms, gap.time_ms) for gap in found.gaps]
    return "<h2>체크포인트<small>checkpoints: how the signed tree grew</small></h2>" + drawing.ribbon(
        found.seals, size=found.checkpoint.size, start_ms=found.start_ms, end_ms=found.end_ms, gaps=gaps,
        labels=(_when(found.start_ms), _when(found.end_ms)), what="체크포인트 · checkpoints",
    )  # fmt: skip


def _path(found: Summary) -> str:
    path, point = found.path, found.checkpoint
    if path is None:
        return ""
    what = f"{path.index:,}번 항목의 머클 경로 · Merkle path of entry {path.index:,}"
    return (
        f"<h2>{path.index:,}번 항목에서 루트까지<small>from entry {path.index:,} to the root</small></h2>"
        '<p class="muted">아래가 항목의 해시, 위가 로그가 서명한 루트. 옆의 해시들이 포함 증명이다. · '
        "Below the entry's hash, above the root that the log signed; the hashes beside are the inclusion proof.</p>"
        + drawing.merkle_path(path.index, point.size, path.leaf_hash, path.hashes, point.root, what=what)
    )


def _name(names: dict[str, tuple[str, str]], key: str) -> str:
    ko, en = names.get(key, ("", ""))
    known = " · ".join(dict.fromkeys(part for part in (ko, en) if part))
    return known or key


def _label(found: Summary, at: int) -> str:
    moment = datetime.fromtimestamp((found.start_ms + at * found.unit_ms) / 1000, UTC).astimezone(_SEOUL)
    return f"{moment:%m-%d}" if found.unit_ms >= DAY_MS else f"{moment:%d %H:%M}"


def _when(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(_SEOUL):%Y-%m-%d %H:%M}"


def _length(ms: int) -> str:
    minutes = ms // 60_000
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _more(count: int, listed: int) -> str:
    if count <= listed:
        return ""
    return f'<p class="muted">처음 {MAX_LISTED}건만 보임, 모두 {count:,}건 · the first {MAX_LISTED} of {count:,}</p>'


def _none() -> str:
    return '<p class="muted">없음 · none</p>'
