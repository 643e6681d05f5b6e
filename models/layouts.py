"""The layouts of the paper's Tables 1 to 4: which training's number stands where, beside the paper's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models import published
from models.config import Ablation
from models.published import CORPORA

EVERYTHING, NOTHING = Ablation(), Ablation(False, False, False, False)
SENSES = {"L only": "text", "V only": "vision", "A only": "audio"}


@dataclass(frozen=True)
class Variant:
    """One training but for its seed."""

    corpus: str  # a key of CORPORA
    aligned: bool
    bert: bool = False  # fine-tuned inside, on the pickle's word pieces
    ablation: Ablation = EVERYTHING

    @property
    def name(self) -> str:
        parts = [part for part in ("fd", "homo_gd", "ca", "hetero_gd") if getattr(self.ablation, part)]
        what = "full" if len(parts) == 4 else "+".join(part.replace("_", "") for part in parts) or "none"
        setting = "aligned" if self.aligned else "unaligned"
        return f"{self.corpus}-{setting}{'-bert' if self.bert else ''}-{what}"


@dataclass(frozen=True)
class Score:
    """A number of a table: a metric, in percent; over several heads, their mean or their deviation."""

    variant: Variant
    metric: str
    heads: tuple[tuple[str, ...], ...] = (("fused",),)  # paths in the test split of ``report.json``
    spread: bool = False


Entry = str | tuple[Score, ...]  # what stands in a cell; several scores are set apart by " / "


@dataclass(frozen=True)
class Table:
    number: int
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]

    @property
    def variants(self) -> list[Variant]:
        entries = [entry for row in self.rows for entry in row if not isinstance(entry, str)]
        return list(dict.fromkeys(score.variant for entry in entries for score in entry))


Pickles = Mapping[tuple[str, bool], Path]  # by corpus and whether it is aligned


def layout(number: int, given: Pickles, bert: bool) -> Table | str:
    """A table of the paper for the pickles at hand, or why it cannot be made."""
    if number in (1, 2):
        return _comparison(number, ("mosi", "mosei")[number - 1], given, bert)
    return _ablation(given) if number == 3 else _unimodal(given)


def _comparison(number: int, corpus: str, given: Pickles, bert: bool) -> Table | str:
    settings = {aligned for c, aligned in given if c == corpus}
    if not settings:
        return f"Table {number} needs --{corpus}"
    rows: list[tuple[Entry, ...]] = []
    for method, setting, *numbers in published.COMPARISON[corpus]:
        rows.append((method, setting, *numbers))
        aligned, star = setting == "Aligned", "*" in method
        if method.startswith("DMD") and aligned in settings and (bert or not star):
            made = Variant(corpus, aligned, bert=star)
            ours = ((Score(made, metric),) for metric in ("Acc-7", "Acc-2", "F1"))
            rows.append((f"DMD{'*' * star} (ours)", setting, *ours))
    header = "Methods", "Setting", "ACC7 (%)", "ACC2 (%)", "F1 (%)"
    return Table(number, f"Comparison on {CORPORA[corpus]}", header, tuple(rows))


def _ablation(given: Pickles) -> Table | str:
    if not given:
        return "Table 3 needs --mosi or --mosei"
    rows: list[tuple[Entry, ...]] = []
    for corpus in dict.fromkeys(c for c, _ in given):
        aligned = (corpus, False) not in given
        where = f"{corpus.upper()} ({'aligned' if aligned else 'unaligned'})"
        for parts, numbers in published.ABLATION:
            made = Variant(corpus, aligned, ablation=Ablation(*parts))
            ticks = ("✓" if part else "×" for part in parts)
            ours = ((Score(made, metric),) for metric in ("Acc-7", "F1"))
            rows.append((where, *ticks, *ours, *numbers[corpus]))
    header = "Dataset", "FD", "HomoGD", "CA", "HeteroGD", "ACC7", "F1", "ACC7 (paper)", "F1 (paper)"
    return Table(3, "Ablation study of the key components in DMD", header, tuple(rows))


def _unimodal(given: Pickles) -> Table | str:
    """Homogeneous heads; the third column is the comparison in the text of section 4.2."""
    if not any(corpus == "mosei" for corpus, _ in given):
        return "Table 4 needs --mosei"
    aligned = ("mosei", False) not in given
    steps = (NOTHING, Ablation(True, False, False, False), Ablation(True, True, False, False))
    rows: list[tuple[Entry, ...]] = []
    for name, numbers in published.UNIMODAL.items():
        senses = [SENSES[name]] if name in SENSES else list(SENSES.values())
        heads = tuple(("homo", sense) for sense in senses)
        ours = (
            tuple(
                Score(Variant("mosei", aligned, ablation=step), metric, heads, name == "STD")
                for metric in ("Acc-2", "F1")
            )
            for step in steps
        )
        rows.append((name, *ours, *numbers))
    header = (
        "Methods", "w/o FD: Acc2 / F1", "w/ FD: Acc2 / F1", "w/ FD, HomoGD: Acc2 / F1",
        "paper: w/o FD", "paper: w/ FD", "paper: w/ HomoGD, Acc2",
    )  # fmt: skip
    setting = "aligned" if aligned else "unaligned"
    return Table(4, f"Unimodal accuracy comparison on MOSEI dataset ({setting})", header, tuple(rows))
