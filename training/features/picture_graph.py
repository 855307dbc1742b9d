"""What the image processor does with a picture, as an ONNX file, for callers in other languages than Python."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modeling_mmfusion import MMFusionProcessor
from modeling_mmfusion.errors import DataError

MODES = {Image.Resampling.BILINEAR: "linear", Image.Resampling.BICUBIC: "cubic"}
MIN_COSINE = 0.99
SIZES = ((320, 240), (240, 320), (900, 701), (333, 1200), (100, 77), (512, 512))  # of pictures that are tried
# Pillow's filters: a picture that shrinks is smoothed, weights beyond its edge are left out, and pixels stay whole.
GRAPH = """
<ir_version: 10, opset_import: ["" : 19]>
picture (uint8[height, width, 3] picture) => (float[1, 3, {height}, {width}] pixel_values)
<int64[1] first = {{0}}, int64[2] last = {{2, 3}}, int64[1] two = {{2}}, int64[2] crop = {{{height}, {width}}},
 int64[{sides}] wanted = {{{size}}}, float zero = {{0.0}}, float most = {{255.0}}, float scale = {{{scale}}},
 float[1, 3, 1, 1] mean = {{{mean}}}, float[1, 3, 1, 1] std = {{{std}}}>
{{
    planes = Transpose<perm = [2, 0, 1]>(picture)
    batch = Unsqueeze(planes, first)
    pixels = Cast<to = 1>(batch)
    {sizes}
    resized = Resize<mode = "{mode}", antialias = 1, axes = [2, 3], cubic_coeff_a = -0.5, exclude_outside = 1,
        coordinate_transformation_mode = "half_pixel">(pixels, , , sizes)
    rounded = Round(resized)
    clipped = Clip(rounded, zero, most)
    spare = Sub(sizes, crop)
    start = Div(spare, two)
    stop = Add(start, crop)
    cut = Slice(clipped, start, stop, last)
    unit = Mul(cut, scale)
    centred = Sub(unit, mean)
    pixel_values = Div(centred, std)
}}
"""
BY_SHORTEST_EDGE = """sides = Shape<start = 2, end = 4>(batch)
    shortest = ReduceMin<keepdims = 1>(sides)
    scaled = Mul(sides, wanted)
    sizes = Div(scaled, shortest)"""
BY_SIDES = "sizes = Identity(wanted)"


def picture_graph(image_processor) -> str:
    """The processor's resizing, cropping and normalising as a graph in ONNX's text form.

    Its input `picture` is `(height, width, 3)`, uint8: an upright RGB picture of any size. Its output is
    `pixel_values` of shape `(1, 3, height, width)`, of which the product tower takes several.

    Raises:
        DataError: if the processor resizes otherwise than to two sides or to a shortest edge, bilinearly or
            bicubically.
    """
    settings = image_processor.to_dict()
    size = {name: side for name, side in dict(image_processor.size or {}).items() if side}
    crop = image_processor.crop_size if settings.get("do_center_crop") else None
    crop = {name: side for name, side in dict(crop or size).items() if side}
    mode = MODES.get(image_processor.resample)
    by_edge = set(size) == {"shortest_edge"}
    fits = by_edge or set(size) == {"height", "width"}
    does = all(settings.get(name) for name in ("do_resize", "do_rescale", "do_normalize"))
    if not (fits and does and mode and set(crop) == {"height", "width"}) or settings.get("do_pad"):
        raise DataError(
            f"picture.onnx: {type(image_processor).__name__} does more than resize (bilinear or bicubic), crop and "
            "normalise; export without --pictures"
        )
    sides = [size["shortest_edge"]] if by_edge else [size["height"], size["width"]]
    numbers = {"mean": image_processor.image_mean, "std": image_processor.image_std}
    return GRAPH.format(
        **crop,
        **{name: ", ".join(f"{float(one)!r}" for one in values) for name, values in numbers.items()},
        sides=len(sides),
        size=", ".join(map(str, sides)),
        scale=float(image_processor.rescale_factor),
        sizes=BY_SHORTEST_EDGE if by_edge else BY_SIDES,
        mode=mode,
    )


def add_picture_graph(
    folder: Path, processor: MMFusionProcessor, tower: torch.nn.Module, pictures: list[Image.Image]
) -> dict[str, float]:
    """Adds `picture.onnx` to an ONNX folder.

    Args:
        folder (`Path`): where it goes.
        processor (`MMFusionProcessor`): the model's.
        tower (`torch.nn.Module`): the eager product tower, from inputs to vectors.
        pictures (`list[Image.Image]`): what it is tried on, each in several sizes.

    Returns:
        `mean_difference` and `max_difference` from the processor's pixels, in levels of 255, and `min_cosine` of the
        vectors of both. Pillow rounds once more than the graph does, so they are not the same.

    Raises:
        DataError: if the processor can't be written as a graph, or the cosine of a vector is less than 0.99.
    """
    import onnx
    import onnxruntime

    model = onnx.parser.parse_model(picture_graph(processor.image_processor))
    onnx.checker.check_model(model)
    onnx.save(model, folder / "picture.onnx")
    session = onnxruntime.InferenceSession(folder / "picture.onnx", providers=["CPUExecutionProvider"])
    tried = [picture.resize(size) for picture in pictures for size in SIZES]
    inputs = processor.process_products([{"image": picture} for picture in tried])
    expected = inputs["pixel_values"]
    found = [session.run(None, {"picture": np.asarray(picture)})[0] for picture in tried]
    ours = torch.from_numpy(np.stack(found))
    with torch.inference_mode():
        cosines = (tower(**inputs) * tower(**inputs | {"pixel_values": ours})).sum(dim=1)
    std = torch.tensor(processor.image_processor.image_std)[:, None, None]
    levels = 255 * ((ours - expected) * std).abs()
    measured = {
        "mean_difference": round(levels.mean().item(), 4),
        "max_difference": round(levels.max().item(), 4),
        "min_cosine": cosines.min().item(),
    }
    if not measured["min_cosine"] >= MIN_COSINE:
        raise DataError(
            f"onnx/picture: the cosine of a vector to that of the image processor's pixels is "
            f"{measured['min_cosine']:.3f}, less than {MIN_COSINE}; export without --pictures"
        )
    return measured
