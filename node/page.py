"""A result on paper: A4, in the order a reader asks: what, how sure, where, by whom. No name and no UID: neither would be put back."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import cv2
import numpy as np
from reportlab.graphics.barcode.qr import QrCodeWidget
from reportlab.graphics.shapes import Drawing
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Image, KeepTogether, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from node import __version__
from node.codes import number_said, unit_said
from node.domain import Finding, ReadingLink, Result
from node.imaging.volume import Volume
from node.picture import headline, key_frames, left_edge, overlay_of, place, shown_as, window_of
from node.provenance import MODEL, RESEARCH, Provenance

WIDTH = A4[0] - 36 * mm
INK, GREY, AMBER, PALE = HexColor("#1a1a1a"), HexColor("#555555"), HexColor("#8a5a00"), HexColor("#f2f2f2")
SMALL_PICTURES = 4  # beside the leading one
LEAD, SMALLER_LEAD = 0.32 * A4[1], 0.21 * A4[1]  # height: with long tables the page would not hold all
GAP = 3 * mm
DPI = 200  # of pictures
CODE = 26 * mm  # the side of a square code: a telephone reads it from paper
QUOTES = {'"': "&quot;"}
PADDING = 6  # points that a frame of the library keeps free inside
TEXT = ParagraphStyle("text", fontName="Helvetica", fontSize=9.5, leading=12.5, textColor=INK)
SMALL = ParagraphStyle("small", parent=TEXT, fontSize=8, leading=10.5, textColor=GREY)
STRONG = ParagraphStyle("strong", parent=TEXT, fontName="Helvetica-Bold")
TITLE = ParagraphStyle("title", parent=TEXT, fontName="Helvetica-Bold", fontSize=17, leading=21)
SECTION = ParagraphStyle("section", parent=STRONG, fontSize=11, leading=14, spaceBefore=9, spaceAfter=3)
DECIDED = {True: "present", False: "not present", None: "not decided"}
NAMELESS = "Patient and study: see the header of this document in the viewer. The page itself names nobody."


def page(volume: Volume | None, result: Result, provenance: Provenance, *, modality: str, images: int) -> bytes:
    """PDF, mostly one page; equal results give equal bytes."""
    story: list[Flowable] = [
        *_words(f"AI {provenance.job.route.pipeline}: {headline(result)}", TITLE),
        Spacer(1, 2 * mm),
        *_words(f"{modality[:16]}, {images} image{'' if images == 1 else 's'} read. {NAMELESS}", SMALL),
    ]
    if result.analysed:
        story += [*_words("Findings", SECTION), _findings(result.findings)]
    if result.analysed and not any(finding.present for finding in result.findings):
        story += _words("Nothing was decided to be present of what the model looks for. That is no statement about anything else.", TEXT)
    if volume is not None and result.analysed:
        measured = sum(max(1, len(finding.measurements)) for finding in result.findings)
        story += _pictures(volume, result, LEAD if measured + len(result.notes) < 9 else SMALLER_LEAD)
    if result.notes:
        story += _words("Remarks", SECTION)
        for note in result.notes:
            story += _words(f"- {note}", TEXT)
    if link := provenance.job.reading_link:
        story.append(KeepTogether([*_words("Agree, correct or reject", SECTION), _link(link, provenance)]))
    story.append(KeepTogether([*_words("Who computed this", SECTION), _maker(provenance)]))
    buffer = BytesIO()
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=18 * mm - PADDING,
        rightMargin=18 * mm - PADDING,
        topMargin=19 * mm,
        bottomMargin=16 * mm,
        invariant=1,
        title=f"AI {provenance.job.route.pipeline}",
        author=MODEL,
        subject=RESEARCH,
    )
    document.build(story, onFirstPage=_frame, onLaterPages=_frame)
    return buffer.getvalue()


def _frame(canvas: Any, document: Any) -> None:
    """Head and foot of every page: that it is research, and which page."""
    canvas.saveState()
    canvas.setFillColor(AMBER)
    canvas.setFont("Helvetica-Bold", 10)
    canvas.drawString(18 * mm, A4[1] - 14 * mm, RESEARCH)
    canvas.setFillColor(GREY)
    canvas.setFont("Helvetica", 8)
    canvas.drawString(18 * mm, 11 * mm, "Made by software, not verified by a person.")
    canvas.drawRightString(A4[0] - 18 * mm, 11 * mm, f"Page {document.page}")
    canvas.setStrokeColor(AMBER)
    canvas.line(18 * mm, A4[1] - 16 * mm, A4[0] - 18 * mm, A4[1] - 16 * mm)
    canvas.restoreState()


# --- parts ------------------------------------------------------------------------------------------------------------------
def _findings(findings: Sequence[Finding]) -> Table:
    """One row a finding: name and place, probability, decision, measurements."""
    widths = [0.32 * WIDTH, 0.13 * WIDTH, 0.17 * WIDTH, 0.38 * WIDTH]
    rows: list[list[Any]] = [[_words(word, STRONG) for word in ("Finding", "Probability", "Decision", "Measured")]]
    for finding in findings:
        where = " ".join(code.meaning.lower() for code in (finding.laterality, finding.site) if code is not None)
        rows.append(
            [
                [*_words(finding.name, STRONG, widths[0]), *(_words(where, SMALL, widths[0]) if where else [])],
                _words(_chance(finding), TEXT),
                _words(DECIDED[finding.present], STRONG if finding.present else TEXT),
                [
                    line
                    for m in finding.measurements
                    for line in _words(f"{m.name.meaning}: {number(m.value)} {unit_said(m.unit.value)}".rstrip(), TEXT, widths[3])
                ],
            ]
        )
    table = Table(rows, colWidths=widths, repeatRows=1)
    lines: list[Any] = [
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, GREY),
        ("BACKGROUND", (0, 0), (-1, 0), PALE),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ]
    table.setStyle(TableStyle(lines))
    return table


def _chance(finding: Finding) -> str:
    """Its probability; what is outlined or measured has none, and a label about which nothing is said was not trained."""
    if finding.probability is not None:
        return f"{percent(finding.probability)} %"
    return "not trained" if finding.present is None and not finding.measurements else "–"


def percent(probability: float) -> str:
    """As the structured report says it: two decimals of a hundred; but no chance is quite 0 or 100."""
    shown = round(100 * probability, 2)
    if shown >= 100:
        return ">99.99"
    return "<0.01" if shown <= 0 else f"{shown:g}"


def number(value: float) -> str:
    """As the structured report says it: six digits."""
    return number_said(value, digits=6)


def _pictures(volume: Volume, result: Result, height: float) -> list[Flowable]:
    """The leading image, original beside overlay; then further key images, smaller."""
    lead, *more = key_frames(volume, result)
    side = left_edge(volume)
    _, shown = shown_as(volume, lead, window_of(volume, result))
    half = (WIDTH - GAP) / 2
    pair = [_image(rgb, half, height) for rgb in (shown, overlay_of(shown, volume, result, lead))]
    told = f"Colour, dark to bright: {result.heatmap.title}, 0 to 1. " if result.heatmap is not None else ""
    told += f"Outlined: {', '.join(segment.label for segment in result.segments)}. " if result.segments else ""
    where = place(volume, lead) + (f", left edge of the image: {side}" if side else "")
    found: list[Flowable] = [KeepTogether([*_words(where, SECTION), _row(pair, pair[0].drawWidth), *(_words(told, SMALL) if told else [])])]
    if more:
        width = (WIDTH - (SMALL_PICTURES - 1) * GAP) / SMALL_PICTURES
        cells = [[_small(volume, result, at, width), *_words(place(volume, at), SMALL, width)] for at in more[:SMALL_PICTURES]]
        found += [Spacer(1, GAP), _row(cells, width)]
    return found


def _small(volume: Volume, result: Result, at: int, width: float) -> Image:
    _, shown = shown_as(volume, at, window_of(volume, result))
    return _image(overlay_of(shown, volume, result, at), width, 0.2 * A4[1])


def _row(cells: Sequence[Any], width: float) -> Table:
    """Pictures beside each other, left to right."""
    table = Table([list(cells)], colWidths=[width + GAP] * len(cells), hAlign="LEFT")
    style: list[Any] = [(f"{edge}PADDING", (0, 0), (-1, -1), 0) for edge in ("LEFT", "TOP", "BOTTOM")]
    table.setStyle(TableStyle([*style, ("RIGHTPADDING", (0, 0), (-1, -1), GAP), ("VALIGN", (0, 0), (-1, -1), "TOP")]))
    return table


def _image(rgb: np.ndarray, width: float, height: float, *, sharp: bool = False) -> Image:
    """JPEG for pictures, PNG for letters."""
    finest = round(width / 72 * DPI)
    if rgb.shape[1] > finest and not sharp:
        rgb = np.asarray(cv2.resize(rgb, (finest, round(rgb.shape[0] * finest / rgb.shape[1])), interpolation=cv2.INTER_AREA), np.uint8)
    done, encoded = cv2.imencode(
        ".png" if sharp else ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [] if sharp else [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    if not done:
        raise ValueError("the picture can't be encoded")
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    return Image(BytesIO(encoded.tobytes()), rgb.shape[1] * scale, rgb.shape[0] * scale, hAlign="LEFT")


def _maker(provenance: Provenance) -> Table:
    maker = provenance.maker
    rows = [
        ("Model", f"{maker.name} {maker.version}, {maker.source}"),
        ("Weights, SHA-256", maker.digest),
        ("Pipeline", provenance.job.route.pipeline),
        ("Node", f"{MODEL} {__version__}"),
        ("Written", provenance.written_at.strftime("%Y-%m-%d %H:%M")),
    ]
    table = Table(
        [[_words(name, SMALL), _words(value, SMALL, 0.76 * WIDTH)] for name, value in rows], colWidths=[0.22 * WIDTH, 0.78 * WIDTH]
    )
    table.setStyle(
        TableStyle([("TOPPADDING", (0, 0), (-1, -1), 0), ("BOTTOMPADDING", (0, 0), (-1, -1), 1), ("LEFTPADDING", (0, 0), (-1, -1), 0)])
    )
    return table


def _link(link: ReadingLink, provenance: Provenance) -> Table:
    """The way to the reading page: to be pressed on a screen, to be scanned from paper."""
    where = urlsplit(link.url).netloc
    told = [
        Paragraph(f'<a href="{escape(link.url, QUOTES)}" color="#0b57a4"><u>Open the reading page</u></a> at {escape(where)}.', STRONG),
        *_words(f"{provenance.link_said(link)} Whoever has this document can open it.", SMALL, 0.8 * WIDTH),
    ]
    square = Drawing(CODE, CODE)
    square.add(QrCodeWidget(link.url, barWidth=CODE, barHeight=CODE, barBorder=0, barLevel="M"))
    table = Table([[square, told]], colWidths=[CODE + 4 * mm, WIDTH - CODE - 4 * mm], hAlign="LEFT")
    edges: list[Any] = [(f"{edge}PADDING", (0, 0), (-1, -1), 0) for edge in ("LEFT", "TOP", "BOTTOM")]
    table.setStyle(TableStyle([*edges, ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    return table


def _words(text: str, style: ParagraphStyle, width: float = WIDTH) -> list[Flowable]:
    """A paragraph; where the printer's own typeface lacks a letter (anything but Western European), a picture of the words."""
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return _drawn(text, style, width)
    return [Paragraph(escape(text), style)]


def _drawn(text: str, style: ParagraphStyle, width: float) -> list[Flowable]:
    """Lines drawn with a typeface that knows every script of the node's pictures."""
    size = 40  # pixels for the height of a letter: fine enough for a printer
    face = cv2.FontFace("uni")
    points = style.fontSize / size
    lines, current = [], ""
    for letter in text:  # between words, or anywhere in scripts without spaces
        if current and cv2.getTextSize((0, 0), current + letter, (0, 0), face, size, 400)[2] * points > width:
            line, space, rest = current.rpartition(" ")
            lines.append(line if space else current)
            current = rest if space else ""
        current += letter
    found: list[Flowable] = []
    for line in [*lines, current]:
        canvas = np.full((round(size * style.leading / style.fontSize), max(8, round(width / points)), 3), 255, np.uint8)
        cv2.putText(canvas, line, (0, round(size * 1.05)), (26, 26, 26), face, size, 400)
        found.append(_image(canvas, width, 1e6, sharp=True))
    return found
