"""One process of test_distributed: a step of all losses with DDP, random choices fixed, gradients saved by rank 0."""

import os
import sys

import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.training.momentum import MomentumModel

BATCH, SEQ = 12, 14


LOSS_WEIGHTS = dict(itc=1.0, sdm=0.1, bsdm=0.1, cmpm=0.2, tal=0.3, waf=0.4, itm=0.7, mlm=1.0, id=0.5)
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SECTIONS = {
    "clip": {
        "text_config": {**TOWER, "vocab_size": 120, "max_position_embeddings": SEQ},
        "cross_modal_config": {"num_hidden_layers": 1, "cross_attention_residual": True},
    },
    "bert": {
        "text_config": {**TOWER, **NO_DROPOUT, "vocab_size": 120, "caption_length": SEQ},
        "cross_modal_config": {**NO_DROPOUT, "num_hidden_layers": 1, "num_attention_heads": 2},
    },
}


def build(family: str) -> AgaForPreTraining:
    torch.manual_seed(0)
    config = AgaConfig(
        family=family,
        vision_config={**TOWER, "image_size": [32, 16], "patch_size": 8, "stem_channels": [8]},
        projection_dim=32,
        objective_config={
            "loss_weights": LOSS_WEIGHTS,
            "num_identities": 5,
            "image_keep_ratio": 0.5,
            "waf_target": "match" if family == "clip" else "identity",
            "waf_weighting": "trusted",
            "pair_weighting": "trusted",
            "enrichment_probability": 1.0,
            "mask_ratio": 0.3,
            "momentum": 0.9,
            "queue_size": 8,
        },
        **SECTIONS[family],
    )
    return AgaForPreTraining(config).train()


def build_teacher(model: AgaForPreTraining) -> MomentumModel:
    """A momentum model that differs from the model, with a queue that holds something."""
    teacher = MomentumModel(model)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    teacher.set_epochs_done(1.0)
    teacher.remember(torch.randn(5, 32), torch.randn(5, 32), torch.arange(5))
    return teacher


def fix_randomness(model: AgaForPreTraining) -> None:
    """Masks, TEM's words and hard negatives that depend on each pair alone, not on how the batch is split."""
    from aga_model import matching, pair_model

    pair_model.sample_tokens = lambda probabilities: (
        (torch.arange(probabilities.shape[1]) % 4 == 2)[None] & (probabilities > 0)
    )
    pair_model.corrupt_tokens = lambda ids, masked, config: torch.where(masked, config.mask_token_id, ids)
    matching.hard_negatives = lambda logits, same: (
        logits.masked_fill(same, float("-inf")).argmax(dim=1),
        (~same).any(dim=1),
    )
    model.enrichment.sampling = "argmax"


def main(rank: int, world: int, port: str, output: str, split: str, family: str, chunk: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = build(family)
    teacher = build_teacher(model)
    fix_randomness(model)
    model.use_chunks(int(chunk))
    torch.manual_seed(1)
    ids = torch.randint(0, 110, (BATCH, SEQ))
    text_config = model.config.text_config
    ids[(ids >= 100) | (ids == 0)] = 99  # no special token of either family
    ids[:, 0] = text_config.bos_token_id
    rows = torch.arange(BATCH)
    lengths = SEQ - rows % 5 - 2 * (rows >= BATCH // 2)  # the longest caption of each process is another
    for row, length in enumerate(lengths.tolist()):
        ids[row, length - 1 :] = text_config.pad_token_id
        ids[row, length - 1] = text_config.eos_token_id
    batch = {
        "input_ids": ids,
        "attention_mask": (torch.arange(SEQ) < lengths[:, None]).long(),
        "pixel_values": torch.randn(BATCH, 3, 32, 16),
        "person_ids": torch.arange(BATCH) % 5,
    }
    border = BATCH // 2 if split == "even" else 7
    share = slice(0, BATCH) if world == 1 else (slice(0, border) if rank == 0 else slice(border, BATCH))
    batch = {key: value[share] for key, value in batch.items()}
    longest = int(batch["attention_mask"].sum(dim=1).max())  # each process pads to the longest of its own captions
    batch |= {key: batch[key][:, :longest] for key in ("input_ids", "attention_mask")}
    wrapped = DistributedDataParallel(model)
    outputs = wrapped(**batch, momentum_model=teacher)
    outputs.loss.backward()
    loss = outputs.loss.detach().clone()
    dist.all_reduce(loss)
    if rank == 0:
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        queue = dict(zip(("queue.images", "queue.texts", "queue.persons"), teacher.past()))
        save_file({**gradients, **queue, "loss": loss / world}, output)
    dist.barrier()
    dist.destroy_process_group()
    # Without Python's own end: there DDP's reducer frees the process group while it holds the interpreter's lock,
    # which a thread of gloo that is freeing the barrier may be waiting for.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
