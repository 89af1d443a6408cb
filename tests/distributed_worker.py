"""One process of test_distributed: a training step of all losses with DDP, masks fixed, gradients saved by rank 0."""

import sys

import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from aga_model import AgaConfig, AgaForPreTraining

BATCH, SEQ = 12, 14


def build() -> AgaForPreTraining:
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AgaConfig(
        text_config={**tower, "vocab_size": 120, "max_position_embeddings": SEQ},
        vision_config={**tower, "image_size": [32, 16], "patch_size": 8, "stem_channels": [8]},
        projection_dim=32,
        cross_modal_config={"num_hidden_layers": 1, "cross_attention_residual": True},
        objective_config={
            "loss_weights": {"itc": 1.0, "sdm": 0.1, "mlm": 1.0, "id": 0.5},
            "num_identities": 5,
            "enrichment_probability": 1.0,
        },
    )
    return AgaForPreTraining(config).train()


def fix_randomness(model: AgaForPreTraining) -> None:
    """Masks and TEM's words that depend on each caption alone, so that they are the same in every split."""
    import aga_model.modeling_aga as modeling

    modeling.sample_tokens = lambda probabilities: (torch.arange(SEQ) % 4 == 2)[None] & (probabilities > 0)
    modeling.corrupt_tokens = lambda ids, masked, config: torch.where(masked, config.mask_token_id, ids)
    model.enrichment.sampling = "argmax"


def main(rank: int, world: int, port: str, output: str, split: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = build()
    fix_randomness(model)
    torch.manual_seed(1)
    ids = torch.randint(0, 110, (BATCH, SEQ))
    ids[:, 0] = model.config.text_config.bos_token_id
    for row in range(BATCH):
        ids[row, SEQ - 1 - row % 5 :] = model.config.text_config.eos_token_id
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(BATCH, 3, 32, 16),
        "person_ids": torch.arange(BATCH) % 5,
    }
    border = BATCH // 2 if split == "even" else 7
    share = slice(0, BATCH) if world == 1 else (slice(0, border) if rank == 0 else slice(border, BATCH))
    wrapped = DistributedDataParallel(model)
    outputs = wrapped(**{key: value[share] for key, value in batch.items()})
    outputs.loss.backward()
    loss = outputs.loss.detach().clone()
    dist.all_reduce(loss)
    if rank == 0:
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        save_file({**gradients, "loss": loss / world}, output)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
