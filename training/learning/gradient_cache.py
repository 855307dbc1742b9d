"""One step's forward and backward pass, in chunks and over processes, with the gradients of the whole batch.

The encoders run chunk by chunk and the loss sees the vectors of all chunks. With `replay` no chunk's activations are
kept: the encoders run once for the vectors and, when the loss' gradients with respect to these are known, again for
each chunk's part of the backward pass (GradCache, https://huggingface.co/papers/2101.06983). The memory is that of
one chunk, and dropout draws the same numbers twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator

from training.common.distributed import Share

SHARED = ("scale", "bias")  # of the whole batch, not of single rows


@dataclass
class Chunk:
    """A part of a process' share of a batch.

    Attributes:
        inputs (`dict`): arguments of [`MMFusionModel.forward`].
        queries (`np.ndarray` of shape `(queries,)`): which of the share's queries these are.
        products (`np.ndarray` of shape `(products,)`): which of the share's products.
        bad_rows (`list[tuple[int, str]]`): products of which a picture could not be read, and why.
    """

    inputs: dict
    queries: np.ndarray
    products: np.ndarray
    bad_rows: list[tuple[int, str]] = field(default_factory=list)


def forward_backward(
    accelerator: Accelerator,
    model: torch.nn.Module,
    chunks: list[Chunk],
    counts: tuple[int, int],
    loss_function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    replay: bool = False,
) -> torch.Tensor:
    """Adds a batch's gradients to the model's parameters.

    Args:
        accelerator (`Accelerator`): device, precision and processes.
        model (`torch.nn.Module`): as `accelerator.prepare` gave it.
        chunks (`list[Chunk]`): this process' share, whole.
        counts (`tuple[int, int]`): queries and products of the batch over all processes.
        loss_function (`Callable`): gives this process' part of the loss from the vectors of the whole batch; see
            [`alignment_loss`].
        replay (`bool`, *optional*, defaults to `False`): run the encoders twice to keep no activations.

    Returns:
        `torch.Tensor`: the whole batch's loss, a scalar without gradient.
    """
    share = Share(accelerator.process_index, accelerator.num_processes)
    randomness, outputs = [], []
    for number, chunk in enumerate(chunks):
        randomness.append(_random_state(accelerator.device))
        last = number == len(chunks) - 1
        with nullcontext() if last and not replay else accelerator.no_sync(model), torch.set_grad_enabled(not replay):
            outputs.append(_vectors(model, chunk))
    whole = _join(outputs, chunks, share, counts)
    leaves = {name: tensor.requires_grad_() for name, tensor in whole.items()}
    loss = loss_function(leaves)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    gradients = {name: share.sum(gradient) for name, gradient in zip(leaves, found, strict=True)}
    if replay:
        for number, chunk in enumerate(chunks):
            last = number == len(chunks) - 1
            with nullcontext() if last else accelerator.no_sync(model), _replayed(randomness[number], accelerator):
                output = _vectors(model, chunk)
                _backward(accelerator, [output], [_part(gradients, chunk, share, counts, first=number == 0)])
    else:
        parts = [_part(gradients, chunk, share, counts, first=number == 0) for number, chunk in enumerate(chunks)]
        _backward(accelerator, outputs, parts)
    return share.sum(loss.detach())


def _vectors(model: torch.nn.Module, chunk: Chunk) -> dict[str, torch.Tensor]:
    output = model(**chunk.inputs)
    found = {"query": output.query_embeds, **output.embeds_per_view}
    found |= {"scale": output.logit_scale, "bias": output.logit_bias}
    return {name: tensor.float() for name, tensor in found.items()}


def _join(outputs, chunks: list[Chunk], share: Share, counts: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The vectors of the whole batch, in its order."""
    whole = {name: outputs[0][name].detach().clone() for name in SHARED}
    for name in outputs[0]:
        if name not in SHARED:
            rows = np.concatenate([chunk.queries if name == "query" else chunk.products for chunk in chunks])
            own = torch.cat([output[name].detach() for output in outputs])
            own = own[torch.from_numpy(np.argsort(rows)).to(own.device)]
            whole[name] = share.gather(own, counts[0] if name == "query" else counts[1])
    return whole


def _part(gradients, chunk: Chunk, share: Share, counts: tuple[int, int], first: bool) -> dict[str, torch.Tensor]:
    """A chunk's part of the gradients.

    Processes' gradients are averaged later, so the vectors' are multiplied by their number.
    """
    part = {}
    for name, gradient in gradients.items():
        if name in SHARED:
            part[name] = gradient if first else torch.zeros_like(gradient)
            continue
        own = gradient[share.rows(counts[0] if name == "query" else counts[1])] * share.world
        rows = torch.from_numpy(chunk.queries if name == "query" else chunk.products).to(own.device)
        # a process without rows has encoded one in vain
        part[name] = own[rows] if len(own) else own.new_zeros(1, own.shape[1])
    return part


def _backward(accelerator: Accelerator, outputs: list[dict], gradients: list[dict]) -> None:
    """Backward passes from the vectors, by way of one scalar whose gradient they are, which half precision scales."""
    names = outputs[0]
    total = sum(
        (output[name] * part[name]).sum() for output, part in zip(outputs, gradients, strict=True) for name in names
    )
    accelerator.backward(total)


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: tuple[torch.Tensor, torch.Tensor | None], accelerator: Accelerator) -> Iterator[None]:
    """Draws the random numbers of an earlier moment, and then goes on as if it had not."""
    on_gpu = accelerator.device.type == "cuda"
    with torch.random.fork_rng(devices=[accelerator.device] if on_gpu else []):
        torch.set_rng_state(state[0])
        if on_gpu:
            torch.cuda.set_rng_state(state[1], accelerator.device)
        yield
