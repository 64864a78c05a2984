"""Draw the figures of a page as SVG without scripts, fonts or other files."""

from collections.abc import Sequence
from html import escape

PALETTE = ("#1f5fa8", "#d1762c", "#3b8f5a", "#8a5aa8", "#b0413e", "#5b8c9e", "#8c8c8c")
"""Colours of series, distinct in print and for most colour-blind readers; the last is for all others."""
WIDTH = 960
INK = "#1d2733"
FAINT = "#dfe4ea"
MUTED = "#5f6b78"


def stacked_bars(
    series: Sequence[tuple[str, Sequence[int]]], labels: Sequence[str], *, what: str, height: int = 220
) -> str:
    """Draw one bar for each interval, stacked by series. *labels* are of the intervals; at most about ten are drawn."""
    left, top, bottom = 54, 10, 34
    columns = len(labels)
    most = max([sum(values[at] for _, values in series) for at in range(columns)] or [0]) or 1
    ceiling = _round_up(most)
    plot = height - top - bottom
    step = (WIDTH - left - 8) / columns
    parts = []
    for part in (0, 0.5, 1):
        y = top + plot * (1 - part)
        parts += [
            f'<line x1="{left}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>',
            _text(left - 6, y + 4, f"{ceiling * part:,.0f}", anchor="end"),
        ]
    every = max(1, -(-columns // 10))
    for at in range(columns):
        x, y = left + step * at, float(top + plot)
        for number, (name, values) in enumerate(series):
            if values[at]:
                tall = plot * values[at] / ceiling
                y -= tall
                parts.append(
                    f'<rect x="{x + step * 0.12:.1f}" y="{y:.1f}" width="{max(1.0, step * 0.76):.1f}" '
                    f'height="{tall:.1f}" fill="{_colour(number, len(series))}">'
                    f"<title>{escape(labels[at])} · {escape(name)}: {values[at]:,}</title></rect>"
                )
        if at % every == 0:
            parts.append(_text(x + step / 2, height - 14, labels[at], anchor="middle"))
    return _svg(parts, height, what)


def legend(rows: Sequence[tuple[str, int]]) -> str:
    """Return the legend of ``stacked_bars`` as HTML: (name, total) of each series."""
    return '<p class="legend">' + "".join(
        f'<span><i style="background:{_colour(number, len(rows))}"></i><bdi>{escape(name)}</bdi> ({total:,})</span>'
        for number, (name, total) in enumerate(rows)
    ) + "</p>"  # fmt: skip


def bars(rows: Sequence[tuple[str, int]], *, what: str) -> str:
    """Draw one horizontal bar for each (name, count)."""
    left, line = 400, 26
    most = max([count for _, count in rows] or [0]) or 1
    room = WIDTH - left - 90
    parts = []
    for at, (name, count) in enumerate(rows):
        y, wide = at * line + 4, max(1.0, room * count / most)
        parts += [
            _text(left - 8, y + 14, name, anchor="end", size=14, fill=INK),
            f'<rect x="{left}" y="{y}" width="{wide:.1f}" height="16" fill="{PALETTE[4]}"/>',
            _text(left + wide + 6, y + 13, f"{count:,}"),
        ]
    return _svg(parts, max(1, len(rows)) * line + 8, what)


def ribbon(
    seals: Sequence[tuple[int, int]],
    *,
    size: int,
    start_ms: int,
    end_ms: int,
    gaps: Sequence[tuple[int, int]],
    labels: tuple[str, str],
    what: str,
) -> str:
    """Draw seals and the size of the tree over time. *seals* are (index, time_ms), *gaps* are (from, to) in ms."""
    height, left, top, plot = 150, 54, 8, 90
    span = max(1, end_ms - start_ms)

    def x(time_ms: int) -> float:
        return left + (WIDTH - left - 8) * (time_ms - start_ms) / span

    parts = [
        f'<rect x="{x(since):.1f}" y="{top}" width="{max(1.0, x(until) - x(since)):.1f}" height="{plot + 26}" '
        'fill="#f3dcd9"/>'
        for since, until in gaps
    ]
    parts += [
        f'<line x1="{left}" x2="{WIDTH - 8}" y1="{top + plot}" y2="{top + plot}" stroke="{FAINT}"/>',
        _text(left - 6, top + 10, f"{size:,}", anchor="end"),
        _text(left - 6, top + plot + 4, "0", anchor="end"),
    ]
    if seals:
        line = " ".join(f"{x(time_ms):.1f},{top + plot * (1 - (index + 1) / size):.1f}" for index, time_ms in seals)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{PALETTE[0]}" stroke-width="2"/>')
    parts += [
        f'<line x1="{x(time_ms):.1f}" x2="{x(time_ms):.1f}" y1="{top + plot + 6}" y2="{top + plot + 26}" '
        f'stroke="{PALETTE[0]}" stroke-width="1"/>'
        for _, time_ms in seals
    ]
    parts += [
        _text(left, height - 8, labels[0]),
        _text(WIDTH - 8, height - 8, labels[1], anchor="end"),
    ]
    return _svg(parts, height, what)


def merkle_path(index: int, size: int, leaf_hash: bytes, hashes: Sequence[bytes], root: bytes, *, what: str) -> str:
    """Draw an inclusion proof: the entry at the bottom, the root at the top, and the sibling hash of each step."""
    sides = path_sides(index, size, len(hashes))
    line, box, middle = 46, 232, WIDTH / 2
    height = (len(hashes) + 1) * line + 44
    parts = []
    for at in range(len(hashes) + 1):
        y = height - 40 - at * line
        if at < len(hashes):
            is_left = sides[at]
            sibling = middle - 300 if is_left else middle + 300
            up = y - line
            parts += [_edge(sibling, y, middle, up, MUTED, 1.2), _edge(middle, y, middle, up, PALETTE[0], 2.4)]
            parts.append(_node(sibling, y, box, hashes[at].hex()[:20] + "…", FAINT, INK))
        if at == 0:
            parts.append(_node(middle, y, box, leaf_hash.hex()[:20] + "…", "#cfe0f3", INK, bold=True))
        elif at == len(hashes):
            parts.append(_node(middle, y, box, root.hex()[:20] + "…", PALETTE[0], "#ffffff", bold=True))
        else:
            parts.append(_node(middle, y, 120, "H(01 ‖ · ‖ ·)", "#eef3f9", MUTED))
    parts.append(_text(middle, height - 4, f"{index:,}", anchor="middle", size=14, fill=INK))
    return _svg(parts, height, what)


def path_sides(index: int, size: int, steps: int) -> list[bool]:
    """Return for each step of an inclusion proof whether the sibling is on the left (RFC 9162 2.1.3.2)."""
    fn, sn = index, size - 1
    found = []
    for _ in range(steps):
        is_left = bool(fn & 1) or fn == sn
        found.append(is_left)
        if is_left:
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    return found


def _edge(x: float, y: float, up_x: float, up_y: float, stroke: str, wide: float) -> str:
    curve = f"M{x:.0f},{y - 4} C{x:.0f},{y - 24} {up_x:.0f},{up_y + 44} {up_x:.0f},{up_y + 24}"
    return f'<path d="{curve}" fill="none" stroke="{stroke}" stroke-width="{wide}"/>'


def _node(x: float, y: float, wide: int, text: str, fill: str, ink: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<rect x="{x - wide / 2:.0f}" y="{y - 4:.0f}" width="{wide}" height="28" rx="5" fill="{fill}"/>'
        f'<text x="{x:.0f}" y="{y + 14:.0f}" text-anchor="middle" font-family="ui-monospace,monospace" '
        f'font-size="13" fill="{ink}"{weight}>{escape(text)}</text>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, fill: str = MUTED) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{fill}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: int, what: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(what, quote=True)}">'
        f"<title>{escape(what)}</title>{''.join(parts)}</svg>"
    )


def _colour(number: int, count: int) -> str:
    return PALETTE[-1] if number == count - 1 and count == len(PALETTE) else PALETTE[number % len(PALETTE)]


def _round_up(value: int) -> int:
    """Return the next 2, 4, 6, 8 or 10 times a power of ten, so that the middle of the scale is an integer."""
    power = 1
    while True:
        for times in (2, 4, 6, 8, 10):
            if value <= times * power:
                return times * power
        power *= 10
