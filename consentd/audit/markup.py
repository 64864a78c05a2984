"""Format the frame and the tables of a page, and text from a ledger as harmless HTML.

The writers of a ledger choose names and justifications. Such text is escaped, its direction is isolated from the text
around it, and invisible or direction-changing characters are replaced by their numbers.
"""

import unicodedata
from collections.abc import Sequence
from html import escape

MAX_NAME = 80
MAX_TEXT = 600
_UNSHOWN = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: the page may load nothing, so that even an escaping mistake could not contact anybody."""
_STYLE = """
:root{color-scheme:only light}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,"Apple SD Gothic Neo","Malgun Gothic","Noto Sans KR","Noto Sans CJK KR",sans-serif;
 color:#1d2733;margin:0 auto;max-width:1020px;padding:28px 30px 60px;background:#fff;word-break:keep-all;
 overflow-wrap:anywhere}
h1{font-size:26px;margin:0 0 2px;letter-spacing:-.01em}
h2{font-size:18px;margin:38px 0 8px;border-top:1px solid #dfe4ea;padding-top:18px}
h1 small,h2 small{font-weight:400;color:#5f6b78;font-size:.72em;margin-left:.5em}
p{margin:6px 0}.muted{color:#5f6b78}
figure{margin:0}
svg{display:block;width:100%;height:auto;font-family:inherit}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:18px 0 6px;padding:0 1px}
.facts div{border:1px solid #dfe4ea;border-radius:8px;padding:9px 12px}
.facts b{display:block;font-size:21px;font-variant-numeric:tabular-nums}
.facts span{color:#5f6b78;font-size:12.5px;display:block}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;margin:2px 0 0 54px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;margin-top:6px}
th{text-align:left;color:#5f6b78;font-weight:500;border-bottom:1px solid #b9c2cc;padding:4px 12px 4px 0}
th span{display:block}
td{border-bottom:1px solid #eceff3;padding:5px 12px 5px 0;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
table:not(.fixed){width:auto}
.fixed{table-layout:fixed}
code{font:12.5px ui-monospace,monospace;overflow-wrap:anywhere}
details{font-size:13px;margin:6px 0 0 54px}summary{color:#5f6b78;cursor:pointer}
summary:focus-visible,.wide:focus-visible{outline:2px solid #1f5fa8;outline-offset:2px}
.no{color:#a63a35}.yes{color:#2a7045}
footer{margin-top:40px;border-top:1px solid #dfe4ea;padding-top:12px;color:#5f6b78;font-size:13px}
@media screen and (max-width:640px){body{padding:18px 14px 40px}.legend,details{margin-left:0}
 .fixed,svg{min-width:640px}figure{overflow-x:auto}}
@media print{body{max-width:none;padding:0;font-size:10.5pt}h2,h2+p,thead{break-after:avoid}
 figure,.facts,tr{break-inside:avoid}.facts{grid-template-columns:repeat(3,1fr)}details{display:none}
 .wide{overflow:visible}table{font-size:8.5pt}.legend{font-size:9pt}
 @page{margin:16mm 14mm}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def frame(title: str, main: str, foot: str) -> str:
    """Return the whole page. *title* is text; *main* and *foot* are HTML."""
    return (
        '<!doctype html><html lang="ko"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="only light">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{main}</main><footer>{foot}</footer></body></html>\n"
    )


def plain(text: str, most: int) -> str:
    """Return text without control and direction characters, and at most *most* characters of it."""
    visible = "".join(
        " " if char in "\t\n\r" else f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in _UNSHOWN else char
        for char in text[:most]
    )
    return visible if len(text) <= most else f"{visible}… (+{len(text) - most:,})"


def show(text: str, most: int = 10_000) -> str:
    """Return text from a ledger as HTML, with isolated direction."""
    return f"<bdi>{escape(plain(text, most))}</bdi>"


def heading(ko: str, en: str) -> str:
    """Return the heading of a section."""
    return f'<h2>{ko}<small lang="en">{en}</small></h2>'


def table(
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int],
    widths: Sequence[int] = (),
) -> str:
    """Return a table, which scrolls if it is wider than the page.

    Args:
        columns: Korean and English name of each column.
        rows: cells, HTML.
        numbers: indexes of the columns with numbers.
        widths: of each column, in percent; empty: as wide as the text.
    """
    kinds = [' class="n"' if at in numbers else "" for at in range(len(columns))]
    styles = [f' style="width:{wide}%"' for wide in widths] or [""] * len(columns)
    head = "".join(
        f'<th scope="col"{kind}{style}><span>{ko}</span><span lang="en">{en}</span></th>'
        for (ko, en), kind, style in zip(columns, kinds, styles, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    fixed = ' class="fixed"' if widths else ""
    # The table can have the focus, so that it can be scrolled with the keyboard.
    whole = f"<table{fixed}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{whole}</div>'


def numbers_of(what: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """Return the numbers of a drawing as a collapsed table, for readers who cannot see the drawing."""
    found = table(columns, rows, numbers=range(1, len(columns)))
    return f"<details><summary>표로 보기 · as a table: {escape(what)}</summary>{found}</details>"


def more(count: int, listed: int) -> str:
    """Return a note that only the first *listed* of *count* are shown; empty if all are."""
    if count <= listed:
        return ""
    return f'<p class="muted">처음 {listed}건만 보임, 모두 {count:,}건 · the first {listed} of {count:,}</p>'


def none() -> str:
    """Return the note of an empty list."""
    return '<p class="muted">없음 · none</p>'
