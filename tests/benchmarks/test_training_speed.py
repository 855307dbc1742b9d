import pytest

from modeling_mmfusion.errors import DataError
from training.benchmarks import training_speed
from training.benchmarks.training_speed import CONTESTANTS, BenchArguments
from training.common.files import write_json


def test_figures_of_the_same_options_are_kept_and_not_measured_again(tmp_path, monkeypatch):
    one, two = list(CONTESTANTS)[:2]
    figures = {"pairs_per_second": 2.0, "seconds": 1.0, "peak_mb": 10.0, "over_model_mb": 5.0}
    arguments = BenchArguments(output=str(tmp_path / "bench.json"), contestants=f"{two};{one}")
    write_json(tmp_path / "bench.json", training_speed.report_of(arguments, {two: figures}))
    asked = []
    monkeypatch.setattr(training_speed, "new_model", lambda _: (NothingToSave(), NothingToSave()))
    monkeypatch.setattr(training_speed, "in_a_process", lambda _, name, model: asked.append(name) or figures)
    assert list(training_speed.main(arguments)["figures"]) == [one, two] and asked == [one]
    arguments.steps += 1
    assert training_speed.kept_figures(arguments) == {}


def test_a_damaged_results_file_is_named(tmp_path):
    (tmp_path / "bench.json").write_text('{"options": {"steps"')
    with pytest.raises(DataError, match=r"bench\.json: is damaged .*delete it"):
        training_speed.kept_figures(BenchArguments(output=str(tmp_path / "bench.json")))


class NothingToSave:
    def save_pretrained(self, folder):
        pass
