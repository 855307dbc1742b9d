"""Models that start from dual encoders, exported: each family's encoders can be followed."""

import pytest
from helpers import DUAL_ENCODERS, TINY_DIMS, make_dual_encoder

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from training import export
from training.features.options import ExportArguments

FAMILIES = list(DUAL_ENCODERS)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "siglip2"])  # NaFlex: no shape varies there
def test_towers_are_exported(family, tmp_path):
    pytest.importorskip("onnxruntime")
    folder = make_dual_encoder(tmp_path / "dual", family)
    MMFusionModel.from_towers(aligned=folder, **TINY_DIMS).save_pretrained(tmp_path / "model")
    MMFusionProcessor.from_towers(aligned=folder).save_pretrained(tmp_path / "model")
    export.main(ExportArguments(str(tmp_path / "model"), formats=["onnx"]))
    assert (tmp_path / "model" / "onnx" / "export.json").is_file()
