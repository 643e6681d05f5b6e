"""The paper's tables: their layout, the cells behind them, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import published, tables
from models.config import Ablation, ConfigError, Training
from models.layouts import Score, Table, Variant, layout
from models.training import Interrupted

EVERYTHING = [str(n) for n in (1, 2, 3, 4)]


@pytest.fixture
def given(tmp_path: Path) -> dict[tuple[str, bool], Path]:
    """Both data sets as MMSA distributes them; nothing opens the files here."""
    found: dict[tuple[str, bool], Path] = {}
    for corpus in ("MOSI", "MOSEI"):
        place = tmp_path / corpus / "Processed"
        place.mkdir(parents=True)
        for name in tables.FILES.values():
            (place / name).touch()
        found |= tables.pickles(corpus.lower(), tmp_path / corpus)
    return found


def made(number: int, given: Any, bert: bool = False) -> Table:
    table = layout(number, given, bert)
    assert isinstance(table, Table), table
    return table


def score_of(config: Training, metric: str, sense: str = "") -> float:
    """A made-up result that depends on everything that makes a cell a cell."""
    parts = sum(map(bool, (config.ablation.fd, config.ablation.homo_gd, config.ablation.ca)))
    return (config.seed % 10 + 10 * parts + 3 * len(metric) + len(sense)) / 100


class Trainer:
    """Leaves a report, as a training does; is stopped in the one after the ``stop``-th."""

    def __init__(self, stop: int = 10_000, how: type[BaseException] = KeyboardInterrupt) -> None:
        self.stop, self.how, self.trained = stop, how, list[tuple[Training, Path]]()

    def __call__(self, config: Training, out: Path) -> None:
        if len(self.trained) == self.stop:
            raise self.how
        self.trained.append((config, out))
        metrics = ("Acc-7", "Acc-2", "F1")
        test: dict[str, Any] = {"fused": {m: score_of(config, m) for m in metrics}}
        test["homo"] = {s: {m: score_of(config, m, s) for m in metrics} for s in ("text", "audio", "vision")}
        out.mkdir(parents=True)
        (out / "report.json").write_text(json.dumps({"splits": {"test": test}}))


def run(tmp_path: Path, trainer: Trainer, *more: str) -> int:
    where = ["--mosi", str(tmp_path / "MOSI"), "--mosei", str(tmp_path / "MOSEI" / "Processed")]
    return tables.main([*where, "--out", str(tmp_path / "out"), "--seeds", "1111", "1112", *more], trainer)


@pytest.mark.parametrize(("number", "corpus", "rows"), [(1, "mosi", 21), (2, "mosei", 19)])
def test_tables_1_and_2_put_our_dmd_under_the_papers_in_every_setting(
    given: Any, number: int, corpus: str, rows: int
) -> None:
    table = made(number, given, bert=True)
    assert table.header == ("Methods", "Setting", "ACC7 (%)", "ACC2 (%)", "F1 (%)")
    assert len(table.rows) == rows + 3
    names = [row[:2] for row in table.rows]
    for star, setting in (("", "Aligned"), ("*", "Aligned"), ("", "Unaligned")):
        place = names.index((f"DMD{star} (ours)", setting))
        assert names[place - 1] == (f"DMD{star} (paper)", setting)
        scores = [entry[0] for entry in table.rows[place][2:] if not isinstance(entry, str)]
        assert [s.metric for s in scores] == ["Acc-7", "Acc-2", "F1"]
        assert {s.variant for s in scores} == {Variant(corpus, setting == "Aligned", bool(star))}
    assert len(made(number, given).rows) == rows + 2, "without BERT its row is left out"


def test_table_3_takes_the_parts_away_as_the_paper_does(given: Any) -> None:
    table = made(3, given)
    assert len(table.rows) == 12
    assert [row[1:5] for row in table.rows[:6]] == [
        ("✓", "✓", "✓", "✓"), ("✓", "✓", "✓", "×"), ("✓", "✓", "×", "✓"),
        ("✓", "✓", "×", "×"), ("✓", "×", "×", "×"), ("×", "×", "×", "×"),
    ]  # fmt: skip
    for row in table.rows:
        assert isinstance(row[5][0], Score)
        ablation = row[5][0].variant.ablation
        parts = ablation.fd, ablation.homo_gd, ablation.ca, ablation.hetero_gd
        assert row[1:5] == tuple("✓" if part else "×" for part in parts)
    assert {v.corpus for v in table.variants} == {"mosi", "mosei"}
    assert not any(v.aligned for v in table.variants), "the paper's Table 3 is unaligned"


def test_table_4_reads_the_homogeneous_heads_of_trainings_that_table_3_has(given: Any) -> None:
    table = made(4, given)
    assert [row[0] for row in table.rows] == ["L only", "V only", "A only", "Mean", "STD"]
    decoupled = Variant("mosei", False, ablation=Ablation(True, False, False, False))
    vision = (("homo", "vision"),)
    assert table.rows[1][2] == (Score(decoupled, "Acc-2", vision), Score(decoupled, "F1", vision))
    assert set(table.variants) <= set(made(3, given).variants)


def test_the_papers_mean_and_deviation_are_those_of_its_modalities() -> None:
    """Table 4's last two rows follow from the others: the numbers were read correctly."""
    numbers = {name: cells[0].split(" / ") for name, cells in published.UNIMODAL.items()}
    for column in (0, 1):
        variants = {
            f"{name}": {"homo": {"x": {"m": float(numbers[name][column]) / 100}}}
            for name in ("L only", "V only", "A only")
        }
        test = {name: one["homo"]["x"] for name, one in variants.items()}
        heads = tuple((name,) for name in test)
        for row, spread in (("Mean", False), ("STD", True)):
            found = tables.value(test, Score(Variant("mosei", False), "m", heads, spread))
            assert found == pytest.approx(float(numbers[row][column]), abs=0.06)


def test_a_full_network_beats_every_ablation_in_the_papers_table() -> None:
    for corpus in published.CORPORA:
        f1 = [float(numbers[corpus][1]) for _, numbers in published.ABLATION]
        assert f1[0] == max(f1)
        unaligned = [row for row in published.COMPARISON[corpus] if row[1] == "Unaligned"][-1]
        assert (unaligned[2], unaligned[4]) == published.ABLATION[0][1][corpus], "the same training twice"


def test_cells_have_the_authors_hyperparameters_and_the_options_override_them(tmp_path: Path) -> None:
    config = tables.mmsa_training(tmp_path / "aligned_50.pkl", Variant("mosei", True), 1112)
    assert (config.seed, config.network["width"], config.network["audio"]["kernel"]) == (1112, 30, 1)
    assert (config.optimisation.clip, config.optimisation.epochs) == (0.6, 30)
    assert config.data.text == "features" and config.text_encoder is None
    bert = tables.mmsa_training(tmp_path / "a.pkl", Variant("mosi", True, bert=True), 1, tmp_path, epochs=3)
    assert bert.data.text == "pieces" and bert.text_encoder is not None
    assert bert.optimisation.epochs == 3
    with pytest.raises(ConfigError, match="--bert"):
        tables.mmsa_training(tmp_path, Variant("mosi", True, bert=True), 1)


def test_every_cell_is_trained_once_though_tables_share_it(given: Any, tmp_path: Path) -> None:
    trainer = Trainer()
    assert run(tmp_path, trainer, "--set", "optimisation.batch=4") == 0
    places = [out for _, out in trainer.trained]
    # Two corpora: aligned, and unaligned with six ablations; two seeds.
    assert len(places) == len(set(places)) == 2 * 7 * 2
    assert {config.optimisation.batch for config, _ in trainer.trained} == {4}


@pytest.mark.parametrize("how", [KeyboardInterrupt, Interrupted])
def test_a_stopped_run_goes_on_where_it_stopped(
    given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: type[BaseException]
) -> None:
    first = Trainer(3, how)
    assert run(tmp_path, first, "--tables", "3") == 130
    assert "3 finished cells; the same command goes on" in capsys.readouterr().err
    half = (tmp_path / "out" / "tables.md").read_text()
    assert "…" in half
    second = Trainer()
    assert run(tmp_path, second, "--tables", "3") == 0
    assert len(second.trained) == 12 * 2 - 3
    assert not {out for _, out in first.trained} & {out for _, out in second.trained}
    third = Trainer()
    assert run(tmp_path, third, "--tables", "3") == 0
    assert not third.trained
    assert "…" not in (tmp_path / "out" / "tables.md").read_text()
    changed = Trainer()
    assert run(tmp_path, changed, "--tables", "3", "--epochs", "2") == 0
    assert len(changed.trained) == 24, "other hyperparameters are other cells"


def test_the_numbers_are_means_and_deviations_over_the_seeds(given: Any, tmp_path: Path) -> None:
    assert run(tmp_path, Trainer()) == 0
    written = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert [t["number"] for t in written["tables"]] == [1, 2, 3, 4]
    full = written["tables"][2]["rows"][0]
    # Seeds end in 1 and 2, three parts that count, metric names of 5 and 2 letters.
    assert full[5:7] == ["46.5 ± 0.7", "37.5 ± 0.7"]
    assert full[7:] == ["41.9", "83.5"]
    text, vision, audio, mean, deviation = (row[1] for row in written["tables"][3]["rows"])
    assert text.split(" / ")[0] == "20.5 ± 0.7" and vision.split(" / ")[0] == "22.5 ± 0.7"
    assert audio.split(" / ")[0] == "21.5 ± 0.7" and mean.split(" / ")[0] == "21.5 ± 0.7"
    assert deviation.split(" / ")[0] == "0.8 ± 0.0"
    assert len(written["cells"]) == 28
    markdown = (tmp_path / "out" / "tables.md").read_text()
    assert "## Table 3. Ablation study" in markdown and "| 46.5 ± 0.7 |" in markdown


def test_a_dry_run_lists_the_cells_and_trains_none(
    given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer()
    assert run(tmp_path, trainer, "--tables", "1", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "cell 1 of 4: mosi-aligned-full, seed 1111" in said and "cell 4 of 4" in said
    assert not trainer.trained and not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_one_line_and_status_2(
    given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert tables.main(["--mosi", str(empty), "--out", str(tmp_path / "o")], Trainer()) == 2
    assert f"--mosi {empty}: neither aligned_50.pkl nor unaligned_50.pkl" in capsys.readouterr().err
    assert run(tmp_path, Trainer(), "--set", "optimisation.btach=3") == 2
    assert "btach" in capsys.readouterr().err
    assert run(tmp_path, Trainer(), "--tables", "3") == 0
    report = next((tmp_path / "out" / "runs").glob("*/report.json"))
    report.write_text("{}")
    assert run(tmp_path, Trainer(), "--tables", "3") == 2
    assert str(report) in capsys.readouterr().err


def test_a_table_without_its_data_is_left_out_and_named(
    given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "MOSI" / "Processed" / "unaligned_50.pkl").unlink()
    out = ["--out", str(tmp_path / "o"), "--seeds", "1", "--tables", *EVERYTHING]
    assert tables.main(["--mosi", str(tmp_path / "MOSI"), *out], Trainer()) == 0
    said = capsys.readouterr().out
    assert "Table 2 needs --mosei: left out" in said and "Table 4 needs --mosei: left out" in said
    written = json.loads((tmp_path / "o" / "tables.json").read_text())
    assert [t["number"] for t in written["tables"]] == [1, 3]
    assert written["tables"][1]["rows"][0][0] == "MOSI (aligned)"
