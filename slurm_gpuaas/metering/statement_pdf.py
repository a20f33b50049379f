"""The statement as PDF, by fpdf2: pure Python, and the font that it draws with is embedded.

Korean needs a font that has it. Fonts come from the system and are not shipped: `fonts-nanum` on Debian and Ubuntu,
`naver-nanum-gothic-fonts` on Fedora and its kin.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fpdf import FPDF
from fpdf.enums import TableBordersLayout, XPos, YPos
from fpdf.fonts import FontFace

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.metering.papers import gpu_hours, korean_day, percent, won
from slurm_gpuaas.metering.statements import KINDS, PROVISIONAL, Line, Statement

FONT_FOLDERS: Final = (
    Path("/usr/local/share/fonts"),
    Path("/usr/share/fonts/truetype/nanum"),
    Path("/usr/share/fonts/naver-nanum-gothic-fonts"),
    Path("/usr/share/fonts/naver-nanum"),
)
_PAIRS: Final = (("NanumGothic.ttf", "NanumGothicBold.ttf"), ("NanumBarunGothic.ttf", "NanumBarunGothicBold.ttf"))
_FAMILY: Final = "statement"
logging.getLogger("fontTools.subset").setLevel(logging.ERROR)  # it warns of tables that no PDF needs


@dataclass(frozen=True, slots=True)
class Fonts:
    """TrueType files that have Korean."""

    regular: Path
    bold: Path


def find_fonts(folders: Sequence[Path] = FONT_FOLDERS) -> Fonts:
    """
    Raises:
        Unavailable: none of the folders has a Korean font that we know.
    """
    for folder in folders:
        for regular, bold in _PAIRS:
            if (folder / regular).is_file() and (folder / bold).is_file():
                return Fonts(folder / regular, folder / bold)
    raise Unavailable(
        f"No Korean font is in {', '.join(map(str, folders))}, so no PDF can be made.",
        way_out="Install fonts-nanum, or name the folder of NanumGothic.ttf; meanwhile print the HTML statement.",
    )


_WIDTHS: Final = (20, 15, 43, 14, 26, 20, 16, 24, 24, 24)
_COLUMNS: Final = (
    "구분\nKind",
    "이용월\nMonth",
    "사업·과제\nProgramme, project",
    "GPU",
    "등급\nClass",
    "GPU시간\nGPU-h",
    "단가\nWon/h",
    "정가\nList",
    "할인\nDiscount",
    "공급가액(원)\nSupply",
)


def statement_pdf(statement: Statement, fonts: Fonts) -> bytes:
    """The same for the same statement and font, byte by byte."""
    head = statement.head
    pdf = FPDF(orientation="landscape", format="A4")
    pdf.set_creation_date(head.issued_at)
    pdf.set_title(f"{PROVISIONAL + ' ' if statement.provisional else ''}이용료 명세서 {head.number}")
    pdf.set_lang("ko")
    pdf.add_font(_FAMILY, fname=fonts.regular)
    pdf.add_font(_FAMILY, style="B", fname=fonts.bold)
    pdf.set_auto_page_break(True, margin=15)
    pdf.add_page()
    pdf.set_font(_FAMILY, "B", 16)
    pdf.cell(text="GPU 이용료 명세서  Statement of GPU use", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    if statement.provisional:
        pdf.set_font(_FAMILY, "B", 10)
        pdf.cell(text=f"{PROVISIONAL}: 마감 전까지 바뀔 수 있습니다.", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.ln(2)
    _pairs(
        pdf,
        [
            ("명세서 번호 Number", head.number),
            ("발행일 Issued (KST)", korean_day(head.issued_at)),
            ("이용 기간 Period (KST)", f"{statement.first_day} ~ {statement.last_day}"),
            ("기관 Organisation", statement.organisation),
            ("공급자 Provider", statement.provider),
            (
                "보장 / 유휴 차용 Guaranteed / burst GPU-hours",
                " / ".join(f"{gpu_hours(statement.charged(service)):,}" for service in ServiceClass),
            ),
            ("장애 손실(무상) Lost to faults, free", f"{gpu_hours(statement.faults):,}"),
        ],
    )
    pdf.ln(3)
    pdf.set_font(_FAMILY, size=7.5)
    aligns = ("LEFT",) * 5 + ("RIGHT",) * 5
    with pdf.table(
        col_widths=_WIDTHS,
        text_align=aligns,
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        headings_style=FontFace(emphasis="BOLD", fill_color=(238, 242, 247)),
        line_height=4,
        padding=0.7,
    ) as table:
        table.row(_COLUMNS)
        for line in (*statement.lines, *statement.payments):
            table.row(_cells(statement, line))
    pdf.ln(3)
    _pairs(
        pdf,
        [
            ("정가 List", won(statement.list_won)),
            ("할인 Discount", won(statement.discount)),
            ("공급가액 Supply value", won(head.supply)),
            (f"부가가치세 VAT {head.vat_percent} %", won(head.vat)),
            ("합계 Total", won(head.total)),
            ("전월 미납 Carried over", won(head.carried)),
            ("수납 Paid", won(head.paid)),
            ("납부할 금액 Due (Won)", won(head.due)),
        ],
        numbers=True,
    )
    return bytes(pdf.output())


def _pairs(pdf: FPDF, pairs: Sequence[tuple[str, str]], *, numbers: bool = False) -> None:
    pdf.set_font(_FAMILY, size=9)
    with pdf.table(
        width=130,
        col_widths=(3, 2) if numbers else (2, 3),
        text_align=("LEFT", "RIGHT" if numbers else "LEFT"),
        align="RIGHT" if numbers else "LEFT",
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        first_row_as_headings=False,
        line_height=5,
    ) as table:
        for pair in pairs:
            table.row(pair)


def _cells(statement: Statement, line: Line) -> list[str]:
    refers = f"→ {line.refers}" if line.refers else ""
    names = (statement.programme(line), statement.project(line), line.text, refers)
    discount = won(line.discount)
    if line.service and line.discount_percent:
        discount += f" ({percent(line.discount_percent)} %)"
    return [
        KINDS[line.kind],
        str(line.month),
        " ".join(name for name in names if name),
        line.model or "",
        line.what if line.service else "",
        f"{gpu_hours(line.amounts.gpu_seconds):,}" if line.service else "",
        line.price,
        won(line.amounts.list_won),
        discount,
        won(line.amounts.won),
    ]
