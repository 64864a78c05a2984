"""Draw the diagrams of the access page as SVG, which needs no scripts, fonts or other files."""

from collections.abc import Sequence
from html import escape

from consentd.audit.access_summary import AccessSummary, MerklePath
from consentd.core.checkpoint import Checkpoint

PALETTE = ("#1f5fa8", "#d1762c", "#3b8f5a", "#8a5aa8", "#b0413e", "#5b8c9e", "#8c8c8c")
"""Colours of series, distinct in print and for most colour-blind readers; the last colour is for all other series."""
WIDTH = 960
INK = "#1d2733"
FAINT = "#dfe4ea"
MUTED = "#5f6b78"
_LEFT = 54
_RIGHT = WIDTH - 8


def stacked_bars(series: Sequence[tuple[str, Sequence[int]]], labels: Sequence[str], *, what: str) -> str:
    """Draw one bar for each interval, stacked by series, and a legend. At most about ten of the labels are drawn."""
    height, top, bottom = 220, 10, 34
    columns, plot = len(labels), height - top - bottom
    ceiling = _round_up(max(sum(values[at] for _, values in series) for at in range(columns)))
    step = (_RIGHT - _LEFT) / columns
    parts = []
    for part in (0, 0.5, 1):
        y = top + plot * (1 - part)
        parts += [_level(y), _text(_LEFT - 6, y + 4, f"{ceiling * part:,.0f}", anchor="end")]
    every = max(1, -(-columns // 10))
    for at, label in enumerate(labels):
        x, y = _LEFT + step * at, float(top + plot)
        for number, (name, values) in enumerate(series):
            if values[at]:
                tall = plot * values[at] / ceiling
                y -= tall
                title = _element("title", escape(f"{label} · {name}: {values[at]:,}"))
                fill = _colour(number, len(series))
                parts.append(_box(x + step * 0.12, y, max(1.0, step * 0.76), tall, fill, title))
        if at % every == 0:
            parts.append(_text(x + step / 2, height - 14, label, anchor="middle"))
    legend = "".join(
        f'<span><i style="background:{_colour(number, len(series))}"></i><bdi>{escape(name)}</bdi> '
        f"({sum(values):,})</span>"
        for number, (name, values) in enumerate(series)
    )
    return f'{_svg(parts, height, what)}<p class="legend">{legend}</p>'


def bars(rows: Sequence[tuple[str, int]], *, what: str) -> str:
    """Draw one horizontal bar for each (name, count)."""
    left, line = 400, 26
    most = max(count for _, count in rows)
    parts = []
    for at, (name, count) in enumerate(rows):
        y, wide = at * line + 4, max(1.0, (WIDTH - left - 90) * count / most)
        parts += [
            _text(left - 8, y + 14, name, anchor="end", size=14, fill=INK),
            _box(left, y, wide, 16, PALETTE[4]),
            _text(left + wide + 6, y + 13, f"{count:,}"),
        ]
    return _svg(parts, len(rows) * line + 8, what)


def ribbon(found: AccessSummary, labels: tuple[str, str], *, what: str) -> str:
    """Draw seals, gaps and the size of the tree over time. *labels*: the texts at the start and the end."""
    height, top, plot = 150, 8, 90
    size, span = found.checkpoint.size, max(1, found.end_ms - found.start_ms)
    bottom = top + plot

    def x(time_ms: int) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (time_ms - found.start_ms) / span

    gaps = [(x(gap.time_ms - gap.length_ms), x(gap.time_ms)) for gap in found.gaps]
    parts = [_box(since, top, max(1.0, until - since), plot + 26, "#f3dcd9") for since, until in gaps]
    parts += [
        _level(bottom),
        _text(_LEFT - 6, top + 10, f"{size:,}", anchor="end"),
        _text(_LEFT - 6, bottom + 4, "0", anchor="end"),
    ]
    points = [(x(time_ms), top + plot * (1 - (index + 1) / size)) for index, time_ms in found.seals]
    line = " ".join(f"{at:.1f},{y:.1f}" for at, y in points)
    parts.append(_element("polyline", points=line, fill="none", stroke=PALETTE[0], stroke_width=2))
    parts += [_line(at, at, bottom + 6, bottom + 26, PALETTE[0]) for at, _ in points]
    parts += [_text(_LEFT, height - 8, labels[0]), _text(_RIGHT, height - 8, labels[1], anchor="end")]
    return _svg(parts, height, what)


def merkle_path(path: MerklePath, point: Checkpoint, *, what: str) -> str:
    """Draw an inclusion proof: the entry at the bottom, the root at the top, and the sibling hash of each step."""
    line, wide, middle, steps = 46, 232, WIDTH / 2, len(path.hashes)
    height = (steps + 1) * line + 44
    bottom = height - 40
    parts = []
    for at, is_left in enumerate(path_sides(path.index, point.size, steps)):
        y = bottom - at * line
        sibling = middle - 300 if is_left else middle + 300
        parts += [_edge(sibling, y, middle, y - line, MUTED, 1.2), _edge(middle, y, middle, y - line, PALETTE[0], 2.4)]
        parts.append(_node(sibling, y, wide, _short(path.hashes[at]), FAINT, INK))
        if at:
            parts.append(_node(middle, y, 120, "H(01 ‖ · ‖ ·)", "#eef3f9", MUTED))
    parts.append(_node(middle, bottom, wide, _short(path.leaf_hash), "#cfe0f3", INK, weight=600))
    if steps:
        parts.append(_node(middle, bottom - steps * line, wide, _short(point.root), PALETTE[0], "#ffffff", weight=600))
    parts.append(_text(middle, height - 4, f"{path.index:,}", anchor="middle", size=14, fill=INK))
    return _svg(parts, height, what)


def path_sides(index: int, size: int, steps: int) -> list[bool]:
    """Return, for each step of an inclusion proof, whether the sibling is on the left (RFC 9162 2.1.3.2)."""
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


# -- elements -------------------------------------------------------------------------------------------------


def _element(name: str, *content: str, **attributes: float | str) -> str:
    """Return an element. *content* is HTML. A ``_`` in an attribute's name is written as ``-``."""
    texts = (f"{value:.1f}" if isinstance(value, float) else escape(str(value)) for value in attributes.values())
    pairs = "".join(f' {key.replace("_", "-")}="{text}"' for key, text in zip(attributes, texts, strict=True))
    return f"<{name}{pairs}>{''.join(content)}</{name}>"


def _edge(x: float, y: float, up_x: float, up_y: float, stroke: str, wide: float) -> str:
    curve = f"M{x:.0f},{y - 4} C{x:.0f},{y - 24} {up_x:.0f},{up_y + 44} {up_x:.0f},{up_y + 24}"
    return _element("path", d=curve, fill="none", stroke=stroke, stroke_width=wide)


def _node(x: float, y: float, wide: int, text: str, fill: str, ink: str, *, weight: int = 400) -> str:
    label = _element(
        "text", escape(text), x=x, y=y + 14, text_anchor="middle", font_family="ui-monospace,monospace", font_size=13,
        fill=ink, font_weight=weight,
    )  # fmt: skip
    return _element("rect", x=x - wide / 2, y=y - 4, width=wide, height=28, rx=5, fill=fill) + label


def _short(hashed: bytes) -> str:
    return hashed.hex()[:20] + "…"


def _box(x: float, y: float, width: float, height: float, fill: str, title: str = "") -> str:
    return _element("rect", title, x=x, y=y, width=width, height=height, fill=fill)


def _level(y: float) -> str:
    return _line(_LEFT, _RIGHT, y, y, FAINT)


def _line(x1: float, x2: float, y1: float, y2: float, stroke: str) -> str:
    return _element("line", x1=x1, x2=x2, y1=y1, y2=y2, stroke=stroke)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, fill: str = MUTED) -> str:
    return _element("text", escape(text), x=x, y=y, text_anchor=anchor, font_size=size, fill=fill)


def _svg(parts: Sequence[str], height: int, what: str) -> str:
    title = _element("title", escape(what))
    return _element("svg", title, *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=what)


def _colour(number: int, count: int) -> str:
    return PALETTE[-1] if number == count - 1 and count == len(PALETTE) else PALETTE[number % len(PALETTE)]


def _round_up(value: int) -> int:
    """Round up to 2, 4, 6, 8 or 10 times a power of ten, so that the middle of a scale is an integer."""
    power = 1
    while 10 * power < value:
        power *= 10
    return next(times * power for times in (2, 4, 6, 8, 10) if value <= times * power)
