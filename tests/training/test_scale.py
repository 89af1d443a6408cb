"""Accelerate's configuration files, FSDP against ordinary data parallelism, and gradient checkpointing."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from aga_model import AgaConfig, AgaForPreTraining, AgaModel
from aga_model.training.arguments import AgaTrainingArguments
from aga_model.training.momentum import MomentumModel
from aga_model.training.parallel.sharding import check_sharding, is_sharded_run

REPOSITORY = Path(__file__).parents[2]
FILES = REPOSITORY / "configs" / "accelerate"
PROCESSES = {"one_gpu": 1, "two_gpus": 2, "eight_gpus": 8, "two_nodes": 16, "fsdp": 8}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
RUN = {
    "model_config": {
        "projection_dim": 32,
        "logit_scale_init_value": 3.0,
        "vision_config": {**TOWER, "image_size": [32, 16], "patch_size": 8},
        "text_config": TOWER,
        "cross_modal_config": {"num_hidden_layers": 1},
        "objective_config": {
            "loss_weights": {"itc": 1.0, "sdm": 0.1, "mlm": 1.0, "itm": 1.0, "id": 0.1},
            "learn_temperature": False,
        },
    },
    "vocab_size": 700,
    "max_steps": 4,
    "per_device_train_batch_size": 8,
    "learning_rate": "1e-3",
    "new_module_lr_factor": 5.0,
    "lr_scheduler_type": "constant",
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "seed": 3,
}


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_accelerate_reads_its_files(name):
    """By its own loader, with no key that it does not know, and as its launcher fills in the arguments."""
    path = str(FILES / f"{name}.yaml")
    config = load_config_from_file(path)
    assert config.num_processes == PROCESSES[name]
    command = ["--config_file", path, "train_hf.py", "run.yaml"]
    if name == "two_nodes":
        command = ["--machine_rank", "1", "--main_process_ip", "10.0.0.1", *command]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    assert args.num_processes == PROCESSES[name] and args.mixed_precision == "no" and not args.use_cpu
    assert args.multi_gpu == (name in ("two_gpus", "eight_gpus", "two_nodes"))
    assert args.use_fsdp == (name == "fsdp")
    if name == "two_nodes":
        assert (args.num_machines, args.machine_rank, args.main_process_ip) == (2, 1, "10.0.0.1")
        assert config.distributed_type == DistributedType.MULTI_GPU
    if name == "fsdp":
        assert int(args.fsdp_version) == 2 and args.fsdp_auto_wrap_policy == "NO_WRAP"


def test_every_file_is_tested():
    assert {path.stem for path in FILES.iterdir()} == set(PROCESSES)


def _launch(python: str, config: Path, script: Path, run_file: Path, folder: Path) -> None:
    command = [python, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    command += ["--main_process_port", "0", script, run_file, "--output_dir", folder, "--use_cpu", "true"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]


def test_fsdp_trains_the_same_model(python, data, tmp_path):
    """Two processes with half of the parameters each end with the weights of two with all of them, and save them."""
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump({**RUN, "data_root": str(data)}))
    _launch(python, FILES / "two_gpus.yaml", REPOSITORY / "train_hf.py", run_file, tmp_path / "whole")
    _launch(python, FILES / "fsdp.yaml", Path(__file__).with_name("fsdp_worker.py"), run_file, tmp_path / "shards")
    whole, shards = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "shards"))
    assert whole.keys() == shards.keys()
    for name, value in whole.items():
        torch.testing.assert_close(shards[name], value, atol=2e-4, rtol=1e-3, msg=name)
    metrics, sharded = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "shards"))
    assert sharded["mAP"] == pytest.approx(metrics["mAP"], abs=0.5)
    for folder in (tmp_path / "shards" / "model", tmp_path / "shards" / "checkpoint-4"):
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["AgaForPreTraining"]
        assert (folder / "modeling_aga.py").is_file()
    assert type(AgaModel.from_pretrained(tmp_path / "shards" / "model")) is AgaModel


def test_what_cannot_be_shared_out_is_named(make_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FSDP_VERSION", "2")
    args = AgaTrainingArguments(output_dir=str(tmp_path), use_cpu=True, contrastive_chunk=4, muon_learning_rate=1e-3)
    with pytest.raises(
        ValueError, match=r"learn_temperature: true; .*momentum; muon_learning_rate; contrastive_chunk"
    ):
        check_sharding(make_model(momentum=0.9), args)
    plain = AgaTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    check_sharding(make_model(learn_temperature=False), plain)
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="fsdp_version: 1"):
        check_sharding(make_model(learn_temperature=False), plain)
    monkeypatch.delenv("FSDP_VERSION")  # Accelerate's default is 1
    with pytest.raises(ValueError, match="fsdp_version: 1"):
        check_sharding(make_model(learn_temperature=False), plain)


def test_a_launcher_or_the_arguments_ask_for_shards(tmp_path, monkeypatch):
    args = AgaTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not is_sharded_run(args)
    for value, sharded in (("true", True), ("True", True), ("false", False)):
        monkeypatch.setenv("ACCELERATE_USE_FSDP", value)
        assert is_sharded_run(args) is sharded
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    args.fsdp = ["full_shard"]
    assert is_sharded_run(args)


@pytest.mark.parametrize("family", ["clip", "bert"])
def test_gradient_checkpointing_changes_no_gradient(make_sections, batch, family):
    """With AGM's class attention, AWM, the momentum model, ITM and the same draws (dropout too)."""
    objective = {
        "loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0},
        "image_keep_ratio": 0.5,
        "momentum": 0.9,
        "mask_ratio": 0.3,
    }
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**make_sections(family, **objective))).train()
    teacher = MomentumModel(model)
    ids = batch["input_ids"].clone()
    ids[ids >= 640] = 5  # the fixture's special tokens are those of one family
    ids[:, 0], ids[:, -1] = model.config.text_config.bos_token_id, model.config.text_config.eos_token_id
    inputs = batch | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.zero_grad()
        torch.manual_seed(1)
        output = model(**inputs, momentum_model=teacher)
        output.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((output.masked, output.kept_patches, output.mask_probabilities, gradients))
    (masked, kept, probabilities, gradients), (masked_again, kept_again, again, gradients_again) = found
    assert model.aga.vision_model.encoder.layers[0].gradient_checkpointing
    assert torch.equal(masked, masked_again) and torch.equal(kept, kept_again)
    torch.testing.assert_close(again, probabilities, atol=1e-6, rtol=0)
    assert gradients.keys() == gradients_again.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_chunks_and_gradient_checkpointing_together(make_model, batch):
    """A layer that is computed again inside of a chunk that is."""
    model = make_model(mask_ratio=0.3).train()
    model.use_chunks(2)
    found = []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(1)
        model(**batch).loss.backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        model.gradient_checkpointing_enable()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
