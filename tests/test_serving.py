"""The files with which others serve a saved model: they work without this package and give its embeddings."""

import ast
import base64
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aga_model import AgaConfig, AgaForPreTraining, AgaModel, AgaProcessor
from aga_model import handler as handler_module
from aga_model.handler import EndpointHandler
from aga_model.search import PersonEncoder
from aga_model.serving import SERVING_FILES, write_serving_files

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
SENTENCES = ["A young man wearing a navy blue jacket.", "a girl"]


def _photographs():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (60 + 9 * n, 30, 3), dtype=np.uint8)) for n in range(2)]


def _file(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _base64(content):
    return base64.b64encode(content).decode()


@pytest.fixture
def save(make_sections, tokenizer, tmp_path):
    """Saves a tiny model of a family as a released folder."""

    def save(family):
        torch.manual_seed(0)
        config = AgaConfig(**make_sections(family))
        folder = tmp_path / family
        AgaForPreTraining(config).save_pretrained(folder)
        AgaProcessor.for_config(config, tokenizer).save_pretrained(folder)
        write_serving_files(folder)
        return folder

    return save


@pytest.fixture
def handler(save):
    return EndpointHandler(str(save("clip")))


# Runs programs of the page for each folder; the package cannot be imported there.
OUTSIDE = """
import importlib.util, json, sys
import numpy as np

sys.path = [entry for entry in sys.path if entry not in ("", {package!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
assert importlib.util.find_spec("aga_model") is None, "the package must not be importable here"
for folder, programs in json.loads(sys.argv[1]).items():
    for number, program in enumerate(programs):
        page = {{}}
        exec(program, page)
        sys.modules.pop("handler", None)
        answer = page.get("answer") or {{"text_embeds": page["texts"], "image_embeds": page["images"]}}
        np.savez(f"{{folder}}-{{number}}.npz", **answer)
"""


def test_the_pages_programs_without_the_package(save, tmp_path):
    """Both families; the handler, and sentence-transformers where it is installed."""
    needles = ["from handler import"]
    if importlib.util.find_spec("sentence_transformers") is not None:
        needles.append("from sentence_transformers import")
    programs = [
        next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if needle in block)
        for needle in needles
    ]
    folders = [save(family) for family in ("clip", "bert")]
    _photographs()[0].save(tmp_path / "someone.jpg")
    work = {str(folder): [text.replace("checkpoints/aga-small-rendered", str(folder)) for text in programs]
            for folder in folders}  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", OUTSIDE.format(package=str(REPOSITORY)), json.dumps(work)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    for folder in folders:
        encoder = PersonEncoder.from_pretrained(folder, device="cpu")
        texts = encoder.encode_texts(["a woman in a red coat", "a man with a blue backpack"])
        images = encoder.encode_images([Image.open(tmp_path / "someone.jpg")])
        for number in range(len(programs)):
            found = np.load(f"{folder}-{number}.npz")
            np.testing.assert_allclose(found["text_embeds"], texts[: len(found["text_embeds"])], atol=1e-5)
            np.testing.assert_allclose(found["image_embeds"], images, atol=1e-5)


def test_the_pages_command_for_other_folders(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "my_model")
    (command,) = re.findall(r'^python -c "(.*)"$', PAGE, re.MULTILINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(command, {})
    assert {path.name for path in (tmp_path / "my_model").iterdir()} >= set(SERVING_FILES)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        write_serving_files(tmp_path)


def test_what_the_page_says_of_limits():
    shown = (
        f"At most {handler_module.MAX_INPUTS} sentences and {handler_module.MAX_INPUTS} images in a request, "
        f"{handler_module.MAX_CHARACTERS:,} characters a sentence, {handler_module.MAX_IMAGE_BYTES // 2**20} MiB and "
        f"{handler_module.MAX_PIXELS // 10**6} million pixels an image."
    )
    assert shown in " ".join(PAGE.split())


def test_handler_stands_alone():
    tree = ast.parse(Path(handler_module.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module]
        for name in names:
            assert name.split(".")[0] in {"torch", "transformers", "PIL", *sys.stdlib_module_names}


def test_forms_of_a_request(handler):
    one = handler({"inputs": SENTENCES[0], "parameters": {}})["text_embeds"]
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    for inputs in (SENTENCES[:1], {"text": SENTENCES[0]}, {"text": SENTENCES[:1]}):
        assert handler({"inputs": inputs}) == {"text_embeds": one}
    content, image = _file(_photographs()[0]), _photographs()[0]
    wanted = handler({"inputs": {"image": [_base64(content)]}})["image_embeds"]
    wrapped = base64.encodebytes(content).decode()  # with line breaks
    for inputs in ({"image": wrapped}, {"image": "data:image/png;base64," + _base64(content)}, image):
        assert handler({"inputs": inputs}) == {"image_embeds": wanted}


@pytest.mark.parametrize(("family", "dtype"), [("clip", torch.bfloat16), ("bert", torch.float32)])
def test_vectors_are_the_models_whatever_else_is_asked_for(save, family, dtype):
    """
    A sentence that is longer than the model reads is cut; in a model with dropout nothing is left to chance; weights
    in half precision are computed with in float32.
    """
    folder = save(family)
    AgaForPreTraining.from_pretrained(folder).to(dtype).save_pretrained(folder)
    texts, images = ["a man in a red coat and a blue hat, " * 30, *SENTENCES], _photographs()
    found = EndpointHandler(str(folder))(
        {"inputs": {"text": texts, "image": [_base64(_file(image)) for image in images]}}
    )
    model, processor = (
        AgaModel.from_pretrained(folder, dtype=torch.float32).eval(),
        AgaProcessor.from_pretrained(folder),
    )
    wanted = {"text_embeds": [], "image_embeds": []}
    with torch.no_grad():
        for text in texts:
            inputs = processor(text=[text], truncation=True, return_tensors="pt")
            wanted["text_embeds"].append(model.get_text_features(**inputs).pooler_output[0].numpy())
        for image in images:
            pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
            wanted["image_embeds"].append(model.get_image_features(pixels).pooler_output[0].numpy())
    assert found.keys() == wanted.keys()
    for name, vectors in wanted.items():
        np.testing.assert_allclose(found[name], [one / np.linalg.norm(one) for one in vectors], atol=1e-5)


def test_images_are_read_as_the_package_reads_them(handler, tmp_path):
    """Turned by EXIF, transparent over white, with a palette, grey."""
    picture = _photographs()[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    transparent = picture.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.tile(np.arange(30, dtype=np.uint8) * 8, (60, 1))))
    files = [
        _file(picture, "JPEG", exif=turned),
        _file(transparent),
        _file(picture.quantize(16)),
        _file(picture.convert("L"), "BMP"),
        _file(picture, "WEBP"),
    ]
    encoder = PersonEncoder(handler.model, handler.processor, "tiny", device="cpu")
    from aga_model.files import read_image

    for content in files:
        (tmp_path / "image").write_bytes(content)
        wanted = encoder.encode_images([read_image(tmp_path / "image")])
        found = handler({"inputs": {"image": _base64(content)}})["image_embeds"]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def _noise(height, width):
    return Image.fromarray(np.zeros((height, width), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, 'needs "inputs"'),
        ({"text": ["a man"]}, 'needs "inputs"'),
        ({"inputs": "a man", "parameters": {"top_k": 3}}, r"no \"parameters\", got \{'top_k': 3\}"),
        ({"inputs": "a man", "parameters": 5}, r"no \"parameters\", got 5"),
        ({"inputs": 5}, "got int"),
        ({"inputs": {}}, r"got \[\]"),
        ({"inputs": {"texts": ["a man"]}}, r"got \['texts'\]"),
        ({"inputs": []}, '"text" holds 0 entries'),
        ({"inputs": ["a man"] * 33}, '"text" holds 33 entries: send 1 to 32'),
        ({"inputs": ["a man", 5]}, "text 1 is no string but int"),
        ({"inputs": "man " * 501}, "text 0 has 2004 characters"),
        ({"inputs": "  "}, "text 0 holds no word"),
        ({"inputs": "a man \ud800"}, "text 0 is not valid Unicode"),
        ({"inputs": {"image": []}}, '"image" holds 0 entries'),
        ({"inputs": {"image": [5]}}, "image 0 is no string but int"),
        ({"inputs": {"image": "https://example.com/a.jpg"}}, "image 0 is not base64.*no address"),
        ({"inputs": {"image": "https://example.com/abc.jpg"}}, "image 0 is not base64"),  # its letters alone would be
        ({"inputs": {"image": "/etc/hostname"}}, "image 0 is"),
        ({"inputs": {"image": _base64(b"no image")}}, "image 0 is no image of the formats JPEG, PNG, WEBP, BMP"),
        ({"inputs": {"image": _base64(_file(_photographs()[0], "GIF"))}}, "image 0 is no image of the formats"),
        ({"inputs": {"image": _base64(_file(_photographs()[0], "JPEG")[:-900])}}, "image 0 is damaged or truncated"),
        ({"inputs": {"image": _base64(_file(_noise(7, 40)))}}, "image 0 is 40x7: send sides of 8 pixels"),
        ({"inputs": {"image": _base64(_file(_noise(5001, 5000)))}}, "image 0 is 5000x5001"),
        ({"inputs": {"image": _base64(_file(_noise(20, 20).convert("I;16")))}}, "more than 8 bits"),
        ({"inputs": {"image": "A" * (15 * 2**20 + 4)}}, "image 0 is larger than 10 MiB"),
        ({"inputs": {"image": "A" * (14 * 2**20)}}, "image 0 is larger than 10 MiB"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(data, message):
    """Before any model is asked."""
    handler = EndpointHandler.__new__(EndpointHandler)
    with pytest.raises(ValueError, match=message):
        handler(data)


def test_what_is_just_allowed_is_read():
    sentences, images = ["x" * 2000] * 32, [_base64(_file(_noise(8, 8)))] * 32
    found = handler_module._read_request({"inputs": {"text": sentences, "image": images}})
    assert found == (sentences, images)
    for size in ((8, 8), (8, 1000)):
        assert handler_module._to_rgb(_base64(_file(_noise(*size))), 0).size == size[::-1]


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch):
    content = _base64(_file(_noise(100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # PIL's own limit, of which twice is an error
    with pytest.raises(ValueError, match="image 0 has more than 25,000,000 pixels"):
        EndpointHandler.__new__(EndpointHandler)({"inputs": {"image": content}})


def test_what_sentence_transformers_reads(make_model, tmp_path):
    """The model's own features by modality, then unit length; the handler and what it needs to be installed."""
    make_model().save_pretrained(tmp_path)
    write_serving_files(tmp_path)
    settings = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    kinds = [module["type"].rsplit(".", 1)[-1] for module in settings["modules.json"]]
    assert kinds == ["Transformer", "Normalize"] and [m["idx"] for m in settings["modules.json"]] == [0, 1]
    assert settings["modules.json"][0]["path"] == ""  # the folder itself
    assert settings["sentence_bert_config.json"]["modality_config"] == {
        kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"} for kind in ("text", "image")
    }
    assert settings["config_sentence_transformers.json"]["similarity_fn_name"] == "cosine"
    assert (tmp_path / "handler.py").read_bytes() == Path(handler_module.__file__).read_bytes()
    assert (tmp_path / "requirements.txt").read_text().splitlines()[0] == "transformers>=5.17"


def test_served_vectors_by_hand(save):
    """Those of the model for one sentence at a time, at unit length; an image upright and over white."""
    handler = EndpointHandler(str(save("bert")))
    texts = handler({"inputs": SENTENCES})["text_embeds"]
    for sentence, vector in zip(SENTENCES, texts):
        inputs = handler.processor(text=[sentence], return_tensors="pt")
        with torch.no_grad():
            wanted = handler.model.get_text_features(**inputs).pooler_output[0].numpy()
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)
    seen = _photographs()[0].copy()
    lying = seen.transpose(Image.Transpose.ROTATE_90)  # which the value 6 turns back
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = seen.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 15, 60))
    seen_over_white = seen.copy()
    seen_over_white.paste((255, 255, 255), (0, 0, 15, 60))
    for content, picture in ((_file(lying, exif=exif), seen), (_file(clear), seen_over_white)):
        pixels = handler.processor(images=[picture], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            wanted = handler.model.get_image_features(pixels).pooler_output[0].numpy()
        found = handler({"inputs": {"image": _base64(content)}})["image_embeds"][0]
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "fits"), [((8, 8), True), ((5000, 5000), True), ((5000, 5001), False), ((8, 7), False)]
)
def test_limits_of_images_are_met_exactly(size, fits):
    image = Image.new("L", size)
    if fits:
        assert handler_module._to_rgb(image, 0).size == size
    else:
        with pytest.raises(ValueError, match="image 0 is"):
            handler_module._to_rgb(image, 0)
