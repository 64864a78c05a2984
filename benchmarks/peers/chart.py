"""Draw the rates as bars, in SVG."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.report import number

ROW, LEFT, WIDTH, RIGHT, TOP = 26, 260, 460, 130, 64


def draw(title: str, subtitle: str, bars: Sequence[tuple[str, float, float, float]]) -> str:
    """Return a chart with a logarithmic axis.

    Args:
        bars: name, value, and the least and the most of its rounds; each more than 0.
    """
    least = 10 ** math.floor(math.log10(min(one[2] for one in bars)))
    most = 10 ** math.ceil(math.log10(max(one[3] for one in bars) * 1.001))
    decades = round(math.log10(most / least))

    def x(value: float) -> float:
        return LEFT + WIDTH * math.log10(value / least) / decades

    height = TOP + ROW * len(bars) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="16" y="24" font-size="16">{escape(title)}</text>',
        f'<text x="16" y="44" fill="#555" font-size="12">{escape(subtitle)}</text>',
    ]
    bottom = TOP + ROW * len(bars)
    for power in range(decades + 1):
        value = least * 10**power
        parts.append(
            f'<path d="M{x(value):.1f} {TOP - 4}V{bottom}" stroke="#ddd"/><text x="{x(value):.1f}" y="{bottom + 18}" '
            f'text-anchor="middle" fill="#555" font-size="11">{value:,.0f}</text>'
        )
    for row, (name, value, lowest, highest) in enumerate(bars):
        y = TOP + ROW * row
        colour = "#1f6f5c" if name.startswith("consentd") else "#9aa5b1"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y + 3}" width="{max(1.0, x(value) - LEFT):.1f}" height="18" fill="{colour}"/>',
            f'<path d="M{x(lowest):.1f} {y + 12}H{x(highest):.1f}" stroke="#222"/>',
            f'<text x="{max(x(highest), x(value)) + 6:.1f}" y="{y + 16}">{number(value)}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])
