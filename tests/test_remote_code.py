"""Python code of a model's folder runs where the user says so by name, and nowhere else; nothing asks for it."""

import ast
import io
import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor
from typer.testing import CliRunner

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.cli.main import app
from aga_model.conversion import ConversionError, load_albef, load_bert, load_clip, load_irra
from aga_model.errors import ModelLoadError
from aga_model.ingest import load_detector
from aga_model.remote_code import files_naming_code, refusal, tell_of_code_left_out
from aga_model.search import PersonEncoder
from aga_model.training.run import _load_start

PACKAGE = Path(__file__).parents[1] / "aga_model"
FIXTURES = Path(__file__).parent / "fixtures"
# Every class that a settings file below names; whoever imports the file leaves the mark.
CODE = """
from pathlib import Path
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer
Path({mark!r}).write_text("the code ran")
class BroughtConfig(CLIPConfig):
    model_type = "brought"
class BroughtModel(CLIPModel):
    config_class = BroughtConfig
class BroughtDetector(CLIPModel):
    config_class = BroughtConfig
class BroughtProcessor(CLIPProcessor):
    pass
class BroughtTokenizer(CLIPTokenizer):
    pass
class BroughtImageProcessor(CLIPImageProcessorPil):
    pass
"""
MODEL_MAP = {
    "AutoConfig": "brought.BroughtConfig",
    "AutoModel": "brought.BroughtModel",
    "AutoModelForObjectDetection": "brought.BroughtDetector",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for a model, and the file that tells that its code ran; its modules are not cached elsewhere."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    # What `yes | aga ...` gives to whoever asks.
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    folder = tmp_path / tmp_path.name  # the module is cached under the folder's name
    folder.mkdir()
    mark = tmp_path / "mark"
    (folder / "brought.py").write_text(CODE.format(mark=str(mark)))
    return folder, mark


def _change(path, **values):
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(settings | values))


def _save_clip(folder, tokenizer):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


def _brings_model(folder, tokenizer, config):
    _save_clip(folder, tokenizer)
    _change(folder / "config.json", model_type="brought", auto_map=MODEL_MAP)


def _brings_processor(folder, tokenizer, config):
    _save_clip(folder, tokenizer)
    names = {"processor_class": "BroughtProcessor"}
    _change(folder / "processor_config.json", auto_map={"AutoProcessor": "brought.BroughtProcessor"}, **names)
    _change(folder / "tokenizer_config.json", **names)


def _save_own(folder, tokenizer, config):
    AgaForPreTraining(config).save_pretrained(folder)
    AgaProcessor.for_config(config, tokenizer).save_pretrained(folder)


def _brings_tokenizer(folder, tokenizer, config):
    _save_own(folder, tokenizer, config)
    auto_map = {"AutoTokenizer": [None, "brought.BroughtTokenizer"]}
    _change(folder / "tokenizer_config.json", tokenizer_class="BroughtTokenizer", auto_map=auto_map)


def _brings_image_processor(folder, tokenizer, config):
    _save_own(folder, tokenizer, config)
    images = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    auto_map = {"AutoImageProcessor": "brought.BroughtImageProcessor"}
    images |= {"image_processor_type": "BroughtImageProcessor", "auto_map": auto_map}
    _change(folder / "processor_config.json", image_processor=images)


PARTS = [_brings_model, _brings_processor, _brings_tokenizer, _brings_image_processor]


@pytest.fixture
def config(make_sections):
    return AgaConfig(**make_sections("clip"))


@pytest.mark.parametrize("brings", PARTS)
def test_an_encoders_code_runs_only_when_it_is_trusted(brings, place, tokenizer, config):
    folder, mark = place
    brings(folder, tokenizer, config)
    with pytest.raises(ModelLoadError, match="--trust-remote-code") as caught:
        PersonEncoder.from_pretrained(folder, device="cpu")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not mark.exists()
    trusting = PersonEncoder.from_pretrained(folder, device="cpu", trust_remote_code=True)
    assert mark.read_text() == "the code ran"
    assert trusting.encode_texts(["a man"]).shape == (1, trusting.dim)


def test_a_detectors_code_runs_only_when_it_is_trusted(place, tokenizer, config):
    folder, mark = place
    _brings_model(folder, tokenizer, config)
    with pytest.raises(ModelLoadError, match=r"config\.json.*--trust-remote-code"):
        load_detector(str(folder), "cpu")
    assert not mark.exists()
    with pytest.raises(ModelLoadError, match="has no label 'person'"):  # it is no detector, but it was run
        load_detector(str(folder), "cpu", trust_remote_code=True)
    assert mark.exists()


def test_a_detectors_image_processor_is_not_run_either(place, tokenizer, config):
    from transformers import YolosConfig, YolosForObjectDetection

    folder, mark = place
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    YolosForObjectDetection(YolosConfig(**tiny, image_size=[32, 32])).save_pretrained(folder)
    auto_map = {"AutoImageProcessor": "brought.BroughtImageProcessor"}
    _change(folder / "preprocessor_config.json", image_processor_type="BroughtImageProcessor", auto_map=auto_map)
    with pytest.raises(ModelLoadError, match=r"image processor.*preprocessor_config\.json.*--trust-remote-code"):
        load_detector(str(folder), "cpu")
    assert not mark.exists()


def test_code_that_transformers_does_not_need_is_named_and_not_run(place, tokenizer, config, caplog):
    """As with AIMv2, whose repositories carry code from before transformers had it."""
    folder, mark = place
    _save_clip(folder, tokenizer)
    wanted = PersonEncoder.from_pretrained(folder, device="cpu").encode_texts(["a man in red"])
    assert "Python code" not in caplog.text
    _change(folder / "config.json", auto_map=MODEL_MAP)
    found = PersonEncoder.from_pretrained(folder, device="cpu").encode_texts(["a man in red"])
    assert (found == wanted).all() and not mark.exists()
    assert "config.json" in caplog.text and "not run" in caplog.text


@pytest.mark.parametrize("trusted", [False, True])
def test_models_of_this_package_need_no_trust(trusted, place, tokenizer, config, caplog):
    """Their folders name copies of this package's code, in whose place the installed classes are taken."""
    folder, mark = place
    _save_own(folder, tokenizer, config)
    for name in ("modeling_aga", "configuration_aga", "processing_aga"):
        (folder / f"{name}.py").write_text((folder / "brought.py").read_text())
    encoder = PersonEncoder.from_pretrained(folder, device="cpu", trust_remote_code=trusted)
    assert type(encoder.model).__module__ == "aga_model.modeling_aga" and not mark.exists()
    assert "Python code" not in caplog.text


def test_conversions_run_no_code_of_a_tokenizer_or_model(place, tokenizer, config):
    folder, mark = place
    _brings_model(folder, tokenizer, config)
    auto_map = {"AutoTokenizer": [None, "brought.BroughtTokenizer"]}
    _change(folder / "tokenizer_config.json", tokenizer_class="BroughtTokenizer", auto_map=auto_map)
    conversions = [
        lambda: load_clip(folder),
        lambda: load_bert(folder),
        lambda: load_irra(FIXTURES / "irra_tiny" / "best.pth", tokenizer=folder),
        lambda: load_albef(FIXTURES / "rasa_tiny" / "checkpoint.pth", num_heads=4, tokenizer=folder),
    ]
    for convert in conversions:
        with pytest.raises(ConversionError, match="--trust-remote-code"):
            convert()
    assert not mark.exists()
    with pytest.raises(ConversionError):
        load_clip(folder, trust_remote_code=True)
    assert mark.exists()


def test_a_training_runs_no_code_of_the_model_it_starts_from(place, tokenizer, config):
    folder, mark = place
    _brings_tokenizer(folder, tokenizer, config)
    with pytest.raises(ValueError, match="which a training does not run") as caught:
        _load_start(str(folder), {}, {})
    assert str(folder) in str(caught.value) and not mark.exists()


def _commands(folder, tmp_path):
    """A command for each of those that load a model by a name of the user's."""
    Image.new("RGB", (20, 40)).save(tmp_path / "someone.png")
    model = ["--model", str(folder)]
    return {
        "index": ["index", str(tmp_path / "someone.png"), *model, "--out", str(tmp_path / "gallery")],
        "evaluate": ["evaluate", *model, "--data-root", str(tmp_path / "data")],
        "wrong-pairs": ["wrong-pairs", *model, "--data-root", str(tmp_path / "data"), "--split", "test"],
        "export": ["export", str(folder), "--out", str(tmp_path / "onnx")],
        "convert": ["convert", str(folder), "--format", "clip", "--out", str(tmp_path / "converted")],
    }


@pytest.mark.parametrize("command", ["index", "evaluate", "wrong-pairs", "export", "convert"])
def test_commands_refuse_the_code_in_one_line(command, place, tokenizer, config, tmp_path, monkeypatch):
    folder, mark = place
    _brings_model(folder, tokenizer, config)
    monkeypatch.setattr("aga_model.data.load_benchmark", lambda *args, **kwargs: {"test": []})
    arguments = _commands(folder, tmp_path)[command]
    result = CliRunner().invoke(app, arguments, input="y\n" * 20)
    assert result.exit_code == 2 and not mark.exists(), result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(folder) in errors[0] and "--trust-remote-code" in errors[0]
    CliRunner().invoke(app, [*arguments, "--trust-remote-code"])
    assert mark.exists()


def test_search_and_demo_refuse_a_gallerys_model(place, tokenizer, config, tmp_path, monkeypatch):
    """The gallery names the model: whoever sends one could otherwise run code here."""
    pytest.importorskip("lancedb")
    folder, mark = place
    _save_clip(folder, tokenizer)
    Image.new("RGB", (20, 40), "red").save(tmp_path / "someone.png")
    gallery = str(tmp_path / "gallery")
    made = CliRunner().invoke(app, ["index", str(tmp_path / "someone.png"), "--model", str(folder), "--out", gallery])
    assert made.exit_code == 0, made.output
    _change(folder / "config.json", model_type="brought", auto_map=MODEL_MAP)
    search = ["search", gallery, "a man in red"]
    for arguments in (search, ["demo", "--gallery", gallery, "--port", "0"]):
        result = CliRunner().invoke(app, arguments, input="y\n" * 20)
        assert result.exit_code == 2 and "--trust-remote-code" in result.stderr, result.output
        assert not mark.exists()
    assert CliRunner().invoke(app, [*search, "--trust-remote-code"]).exit_code == 0
    assert mark.exists()


def test_a_pipe_of_yes_runs_nothing(place, tokenizer, config, python, tmp_path):
    folder, mark = place
    _brings_model(folder, tokenizer, config)
    command = [python, "-m", "aga_model", *_commands(folder, tmp_path)["index"]]
    run = subprocess.run(command, input="y\n" * 20, capture_output=True, text=True, timeout=300)
    assert run.returncode == 2 and "--trust-remote-code" in run.stderr and not mark.exists(), run.stderr
    assert "[y/N]" not in run.stdout + run.stderr


def test_no_call_leaves_the_decision_to_transformers():
    """Where `trust_remote_code` is left out, transformers asks on standard input."""
    found, calls = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in ("from_pretrained", "from_config", "load_dataset"):
                calls += 1
                if "trust_remote_code" not in {keyword.arg for keyword in node.keywords}:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert calls > 20 and not found


# --- which files are read, and what is said of them ---


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("config.json", {"auto_map": {"AutoModel": "a.B"}}, True),
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "a.B"}}}, True),
        ("processor_config.json", {"a": {"b": {"auto_map": {"AutoTokenizer": "a.B"}}}}, True),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "a.B"}}, True),
        ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "a.B"}}, True),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, True),
        ("config.json", {"auto_map": {}}, False),
        ("config.json", {"model_type": "auto_map"}, False),
        ("config.json", ["auto_map"], False),
        ("other.json", {"auto_map": {"AutoModel": "a.B"}}, False),
    ],
)
def test_settings_that_name_code(name, settings, found, tmp_path):
    (tmp_path / name).write_text(json.dumps(settings))
    assert files_naming_code(tmp_path) == [name] * found
    (tmp_path / name).write_text("{")
    assert files_naming_code(tmp_path) == []


@pytest.mark.parametrize(
    ("model_type", "error", "trusted", "told"),
    [
        ("brought", "unknown model type", False, "(config.json), which was not run.*unknown model type"),
        ("brought", "set trust_remote_code=True", False, "(config.json), which was not run"),
        ("brought", "unknown model type", True, None),
        ("brought", "set trust_remote_code=True", True, None),
        ("aga", "a file is damaged", False, None),
        ("aga", "set trust_remote_code=True", False, "(config.json), which was not run"),
    ],
)
def test_the_reason_that_is_told(model_type, error, trusted, told, tmp_path, caplog):
    settings = {"model_type": model_type, "auto_map": {"AutoModel": "a.B"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    reason = refusal(ValueError(error), tmp_path, trusted)
    assert reason is None if told is None else re.search(told.replace("(", r"\(").replace(")", r"\)"), reason)
    assert reason is None or "--trust-remote-code" in reason
    tell_of_code_left_out(tmp_path, "a model", trusted)
    assert ("a model names Python code of its own (config.json)" in caplog.text) is (
        model_type == "brought" and not trusted
    )


def test_a_repository_is_told_of_by_what_transformers_says():
    assert refusal(ValueError("set trust_remote_code=True"), "owner/name", False).startswith("it names Python code")
    assert refusal(ValueError("no such repository"), "owner/name", False) is None
