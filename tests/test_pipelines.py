"""The scripts beside the package, on small simulated data."""

import re

import pytest

from pipelines import choose, study


def test_choose_tells_how_a_bundle_does_on_patterns_planted_on_good_maps(maps, capsys):
    choose.main([str(maps.bundle)])
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == row.count("|")
    assert str(maps.bundle) in row
    auroc = float(re.findall(r"\| (0\.\d{4}) \|", row)[0])
    assert 0.6 < auroc < 1


def test_choose_without_a_bundle_says_what_to_pass():
    with pytest.raises(SystemExit, match=r"No bundle\. Pass folders"):
        choose.main([])


@pytest.fixture
def in_a_folder_of_its_own(dies, maps, tmp_path, monkeypatch):
    """Two run files as the study names them, on small data; nothing is written elsewhere."""
    monkeypatch.setattr(study, "RUNS", tmp_path)
    monkeypatch.setattr(study, "NAMES", ("one", "two", "absent"))
    monkeypatch.setattr(study, "OUT", tmp_path / "out")
    monkeypatch.setattr(study, "TABLE", tmp_path / "results" / "study.md")
    (tmp_path / "one.toml").write_text(dies.run.read_text())
    (tmp_path / "two.toml").write_text(maps.run.read_text())
    gone = (
        dies.spec.read_text().replace("few_dies", "gone").replace(str(dies.root), "/nowhere/at/all")
    )
    (tmp_path / "gone.toml").write_text(gone)
    absent = dies.run.read_text().replace(dies.spec.as_posix(), (tmp_path / "gone.toml").as_posix())
    (tmp_path / "absent.toml").write_text(absent)
    return tmp_path


def test_the_study_scores_each_rule_on_one_model_and_leaves_out_what_needs_dies(
    in_a_folder_of_its_own, capsys
):
    study.main([])
    said = capsys.readouterr()
    table = (in_a_folder_of_its_own / "results" / "study.md").read_text()
    assert said.out == table
    assert "skipped gone: /nowhere/at/all is not there" in said.err
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table.splitlines()}
    assert rows["rule"] == ["few_dies", "few_maps |"]
    assert set(study.RULES) < set(rows)
    assert rows["density, sum, of moran walks_4 walks_12"][0] == study.NOT_HERE
    assert all(0 <= float(rows["l2"][i].strip("| ")) <= 1 for i in (0, 1))
    assert len({rows[name][0] for name in ("l1", "l2", "variance", "ssim", "gradient")}) > 1
