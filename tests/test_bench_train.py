import pytest

from training import bench_train
from training.bench_train import CONTESTANTS, BenchArguments
from training.data import DataError
from training.files import write_json


def test_figures_of_the_same_options_are_kept_and_not_measured_again(tmp_path, monkeypatch):
    one, two = list(CONTESTANTS)[:2]
    figures = {"pairs_per_second": 2.0, "seconds": 1.0, "peak_mb": 10.0, "over_model_mb": 5.0}
    arguments = BenchArguments(output=str(tmp_path / "bench.json"), contestants=f"{two};{one}")
    write_json(tmp_path / "bench.json", bench_train.report_of(arguments, {two: figures}))
    asked = []
    monkeypatch.setattr(bench_train, "build_model", lambda _: (NothingToSave(), NothingToSave()))
    monkeypatch.setattr(bench_train, "in_a_process", lambda _, name, model: asked.append(name) or figures)
    assert list(bench_train.main(arguments)["figures"]) == [one, two] and asked == [one]
    arguments.steps += 1
    assert bench_train.kept_figures(arguments) == {}


def test_a_damaged_results_file_is_named(tmp_path):
    (tmp_path / "bench.json").write_text('{"options": {"steps"')
    with pytest.raises(DataError, match=r"bench\.json: is damaged .*delete it"):
        bench_train.kept_figures(BenchArguments(output=str(tmp_path / "bench.json")))


class NothingToSave:
    def save_pretrained(self, folder):
        pass
