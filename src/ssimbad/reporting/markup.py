"""One table, written as Markdown and as LaTeX (booktabs)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

DASH = "—"

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "—": "---",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "²": "$^2$",
    "√": r"$\surd$",
    "φ": r"$\varphi$",
    "σ": r"$\sigma$",
    "ᾱ": r"$\bar\alpha$",
    "∈": r"$\in$",
    "∞": r"$\infty$",
    "\u00a0": "~",
}


@dataclass(frozen=True)
class Table:
    """Text cells, ready to print. A row that is a string is a heading inside the table, below a rule.

    The first `words` columns are text, set to the left; the others are numbers, set to the right.
    """

    title: str
    label: str
    columns: list[str]
    rows: Sequence[list[str] | str]
    notes: list[str] = field(default_factory=list)
    words: int = 1


class Footnotes:
    """Marks (a), (b), … for texts, in the order of their first use."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        """The mark of a text; the same text keeps its mark."""
        if text not in self._texts:
            self._texts.append(text)
        return f"({chr(ord('a') + self._texts.index(text))})"

    def lines(self) -> list[str]:
        return [f"{self.mark(text)} {text}" for text in self._texts]


def markdown(tables: list[Table]) -> str:
    """GitHub Markdown: per table a heading, the table and its notes."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    width = len(table.columns)
    rows = [[f"*{row}*"] + [""] * (width - 1) if isinstance(row, str) else row for row in table.rows]
    head = [
        f"## {table.title}",
        "",
        line(table.columns),
        line(["---"] * table.words + ["---:"] * (width - table.words)),
    ]
    notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join([*head, *map(line, rows), *notes])


def latex(tables: list[Table]) -> str:
    """One floating `table` per table; the document needs \\usepackage{booktabs}."""
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(_latex(table) for table in tables) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex(table: Table) -> str:
    def line(cells: list[str]) -> str:
        # braces: a cell that begins with a bracket would be read as an option of the \\ or \midrule before it
        return " & ".join("{" + escape(cell) + "}" for cell in cells) + r" \\"

    def heading(text: str, first: bool) -> str:
        return ("" if first else "\\midrule\n") + rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(text)}}}}} \\"

    width = len(table.columns)
    body = [heading(row, i == 0) if isinstance(row, str) else line(row) for i, row in enumerate(table.rows)]
    notes = [r"\par\smallskip\raggedright", *(escape(note) + r"\par" for note in table.notes)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(table.title)}}}",
            rf"\label{{tab:{table.label}}}",
            rf"\begin{{tabular}}{{{'l' * table.words}{'r' * (width - table.words)}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(notes if table.notes else []),
            r"\end{table}",
        ]
    )
