"""
What a published model is: the files of a saved folder that go to the Hub, checked before any of them leaves.

A release holds weights in safetensors, configuration, processor, code and card, and nothing else: no pickle (whoever
loads one runs what it says), no checkpoint of the trainer, no data.
"""

import ast
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError

from aga_model import AgaForImageTextRetrieval, AgaForPreTraining, AgaModel
from aga_model.configuration_aga import AgaConfig
from aga_model.processing_aga import AgaProcessor
from aga_model.serving import SERVING_FILES

CARD_FILE = "README.md"  # the model card
CONFIG_FILE = "config.json"  # of the model
PROCESSOR_FILE = "processor_config.json"  # of the processor
MODEL_FOLDER = "model"  # of a run
WEIGHTS_FILE = "model.safetensors"  # all weights, or
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"  # which file has which, of large models
# The classes that load from one repository. transformers has no Auto class for image-text matching: the last entry
# names the class for get_class_from_dynamic_module.
MODEL_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForPreTraining", "AgaForImageTextRetrieval")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
_OPTIONAL_FILES = (*_TOKENIZER_FILES, *SERVING_FILES, "preprocessor_config.json", "LICENSE", "NOTICE")
_VOCABULARIES = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"}
_WEIGHTS = ".safetensors"
_LARGEST_HEADER = 100_000_000  # bytes, that of safetensors
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
# What lets its reader in somewhere: kind -> how it is written. A key or token that is part of a longer word is none.
_START = r"(?<![A-Za-z0-9_])"
_SECRETS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY"
        r"|PuTTY-User-Key-File-\d|AGE-SECRET-KEY-1[0-9A-Z]{20}",
        "Hugging Face token": rf"{_START}(?:hf|api_org)_[A-Za-z0-9]{{30,}}",
        "GitHub token": rf"{_START}(?:gh[a-z]_[A-Za-z0-9]{{30,}}|github_pat_\w{{20,}})",
        "GitLab token": rf"{_START}gl(?:pat|ptt|dt|rt|rtr|cbt|ft|soat|imt|oas|agent|ffct|wt)-[\w-]{{20,}}",
        "Slack token": rf"{_START}(?:xox[a-z]|xapp)-[A-Za-z0-9-]{{10,}}|hooks\.slack\.com/services/\w",
        "AWS key": rf"{_START}(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16}}(?![A-Za-z0-9])"
        r"|(?i:aws_?secret_?(?:access_?)?key)\W{1,5}[A-Za-z0-9/+]{40}",
        "Google key": rf"{_START}(?:AIza[\w-]{{30,}}|ya29\.[\w-]{{20,}}|GOCSPX-[\w-]{{20,}})",
        "Azure key": r"(?i:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{30,}",
        "OpenAI or Anthropic key": rf"{_START}sk-(?:(?:ant|proj|svcacct|admin|or)-[\w-]{{16,}}|[A-Za-z0-9]{{20,}})",
        "npm token": rf"{_START}npm_[A-Za-z0-9]{{30,}}",
        "PyPI token": rf"{_START}pypi-(?:AgEI[\w-]{{8,}}|[\w-]{{30,}})",
        "Stripe key": rf"{_START}[rs]k_(?:live|test)_[A-Za-z0-9]{{16,}}",
        "SendGrid key": rf"{_START}SG\.[\w-]{{16,}}\.[\w-]{{16,}}",
        "JSON web token": rf"{_START}eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]{{8,}}",
        "bearer token": r"(?i:\bbearer) +[A-Za-z0-9._~+/-]{20,}",
        # The name of a variable in place of the password, as in {password} or $PASSWORD, gives nothing away.
        "password in an address": r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@\"'<>{}$*]*:[^\s/@\"'<>{}$*]+@[\w\[]",
        "password": r"(?i:(?<![A-Za-z])(?:password|passwd|pwd|passphrase|api_?key|(?:client|secret)_?(?:secret|key)|"
        r"(?:access|auth)_?token)[\"']?\s*[:=]\s*[\"'][^\"'\s{}$<>*]{4,}[\"'])"
        r"|(?i:[?&;](?:password|passwd|pwd|token|access_token|api_?key|secret)=)[^\s&\"'<>{}$*]{4,}"
        r"|(?i:(?<![A-Za-z_.])(?:password|passwd)=)(?!None\b|password\b)[^\s\"'(){}<>\[\],$*]{4,}(?=[\s\"'&]|$)",
    }.items()
}
# A path of somebody's machine: it tells the user's name or where the data lie. A path has no word, dot, slash or tilde
# before it, so that addresses are none.
_PATH_START, _PATH_END = r"(?<![\w./~-])", r"[^\s\"'`)<>]*"
_ROOTS = "home|root|Users|Volumes|mnt|media|data|scratch|tmp|work|workspace|srv|opt|nfs|gpfs|lustre"
_LOCAL_PATH = re.compile(
    rf"{_PATH_START}(?:/(?:{_ROOTS})/[\w.@-]"
    rf"|(?:/[\w.@-]+)+/(?:home|Users|scratch)/[\w.@-]|~/[\w@-]|file:/+[\w.@-]){_PATH_END}"
)
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\+[^\s\"'`)<>]+")
# Code may speak of folders, but not of anybody's home.
_HOME_PATH = re.compile(
    rf"(?:{_PATH_START}|(?<=file:/)|(?<=file://)|(?<=file:///))(?:/[\w.@-]+)*/(?:home|Users)/[\w.@-]{_PATH_END}"
    rf"|\b[A-Za-z]:\\+Users\\+[\w.@-]{_PATH_END}"
)
_JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(/)")
# The name by which a card's example loads the model: the first one, in whichever Auto class.
_LOADED_NAME = re.compile(r"""\.from_pretrained\(\s*(["'])(?P<name>[^"']+)\1""")


class ReleaseError(ValueError):
    """A folder that is not fit to be published, or a repository that does not take it; says what to do."""


@dataclass(frozen=True)
class Release:
    """
    A folder that is fit to be published.

    Args:
        folder: it.
        files: names of what is published, in the order of the names.
        card: text of the model card.
        left_out: name in the folder -> why it stays here.
    """

    folder: Path
    files: tuple[str, ...]
    card: str
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum((self.folder / name).stat().st_size for name in self.files)

    def card_for(self, repo: str) -> str:
        """The card with examples that load from `repo` instead of where the model lies here."""
        return rename_in_examples(self.card, repo)


def read_release(folder: str | Path, secrets: Iterable[str] = ()) -> Release:
    """
    Check everything that a repository needs, on this machine alone.

    The weights are loaded: all of them must be there and finite.

    Args:
        folder: of a saved model with its processor, code and card: `model/` of a run.
        secrets: texts that no file may hold, such as the token of the upload.

    Raises:
        ReleaseError: names the first file that is missing or wrong; repeats no secret.
    """
    secrets = [secret for secret in secrets if secret]
    try:
        return _read_release(Path(folder), secrets)
    except ReleaseError as error:
        raise ReleaseError(_without_secrets(str(error), secrets)) from None


def _read_release(folder: Path, secrets: Sequence[str]) -> Release:
    _require_model_folder(folder)
    config = _read_json(folder / CONFIG_FILE)
    _require_model_type(folder / CONFIG_FILE, config)
    weights = _weight_files(folder)
    code = _code_files(folder, config)
    card = _read_card(folder / CARD_FILE)
    optional = [name for name in _OPTIONAL_FILES if (folder / name).is_file()]
    files = tuple(sorted({CONFIG_FILE, PROCESSOR_FILE, CARD_FILE, *weights, *code, *optional}))
    release = Release(folder, files, card, _left_out(folder, files))
    _require_own_files(release)
    _require_nothing_private(release, secrets)
    _require_loadable(folder, config)
    return release


def rename_in_examples(card: str, name: str) -> str:
    """A card whose code loads the model as `name`, wherever it named the model as in its first `from_pretrained`."""
    found = _LOADED_NAME.search(card)
    if found is None:
        return card
    old = re.escape(found["name"])
    return re.sub(rf"""(["']){old}\1""", lambda match: f"{match[1]}{name}{match[1]}", card)


def _require_model_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ReleaseError(f"{folder} is no folder: give that of a saved model, such as runs/NAME/{MODEL_FOLDER}")
    if (folder / CONFIG_FILE).is_file():
        return
    inner = folder / MODEL_FOLDER
    if (inner / CONFIG_FILE).is_file():
        raise ReleaseError(f"{folder} is the folder of a run: give the model in it, {inner}")
    raise ReleaseError(f"{folder} holds no {CONFIG_FILE}: give the folder that a training or save_pretrained wrote")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ReleaseError(f"{path} is missing: save model and processor into one folder with save_pretrained")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseError(f"{path} is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise ReleaseError(f"{path}: expected keys and values")
    return values


def _require_model_type(path: Path, values: dict[str, Any]) -> None:
    if values.get("model_type") != AgaConfig.model_type:
        raise ReleaseError(
            f"{path}: model_type is {values.get('model_type')!r}, expected {AgaConfig.model_type!r}; `aga convert` "
            "turns models of other methods into ones of this package"
        )


def _weight_files(folder: Path) -> list[str]:
    """The weights in safetensors, with their index where they are in several files."""
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    if not (folder / WEIGHTS_INDEX_FILE).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        advice = f"; {', '.join(pickles)} is no safetensors file" if pickles else ""
        raise ReleaseError(f"{folder} holds no {WEIGHTS_FILE}{advice}: write one with save_pretrained")
    shards = _read_json(folder / WEIGHTS_INDEX_FILE).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ReleaseError(f"{folder / WEIGHTS_INDEX_FILE} names no file: save the model again")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise ReleaseError(f"{folder / WEIGHTS_INDEX_FILE} names {name}, which is no safetensors file beside it")
    return [WEIGHTS_INDEX_FILE, *names]


def _code_files(folder: Path, config: dict[str, Any]) -> list[str]:
    """The modules that the auto maps name, and those that they import."""
    modules: dict[str, set[str]] = {}
    for path, values, keys in (
        (folder / CONFIG_FILE, config, MODEL_CLASSES),
        (folder / PROCESSOR_FILE, _read_json(folder / PROCESSOR_FILE), ("AutoProcessor",)),
    ):
        for key in keys:
            module, class_name = _auto_map_entry(path, values, key)
            modules.setdefault(module, set()).add(class_name)
    files: set[str] = set()
    for module, class_names in modules.items():
        tree = _parse(folder / f"{module}.py", CONFIG_FILE)
        missing = class_names - {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        if missing:
            raise ReleaseError(
                f"{folder / module}.py defines no class {', '.join(sorted(missing))}, which {CONFIG_FILE} names: save "
                "the model again"
            )
        _collect_imports(folder, module, tree, files)
    return sorted(files)


def _auto_map_entry(path: Path, values: dict[str, Any], key: str) -> tuple[str, str]:
    """Module and class of an entry such as `modeling_aga.AgaModel`."""
    auto_map = values.get("auto_map")
    entry = auto_map.get(key) if isinstance(auto_map, dict) else None
    again = "load the model with this version and save it again with save_pretrained"
    if isinstance(entry, str) and "--" in entry:
        raise ReleaseError(f"{path}: auto_map takes {key} from another repository ({entry}): {again}")
    if not isinstance(entry, str) or entry.count(".") != 1:
        raise ReleaseError(f"{path}: auto_map names no class for {key}: {again}")
    module, _, class_name = entry.partition(".")
    return module, class_name


def _parse(path: Path, named_by: str) -> ast.Module:
    if not path.is_file():
        raise ReleaseError(f"{path} is missing, which {named_by} needs: save the model again with save_pretrained")
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path} is no Python ({error}): save the model again") from error


def _collect_imports(folder: Path, module: str, tree: ast.Module, files: set[str]) -> None:
    """Add a module and what it imports from beside it to `files`."""
    name = f"{module}.py"
    files.add(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and f"{node.module}.py" not in files:
            _collect_imports(folder, node.module, _parse(folder / f"{node.module}.py", name), files)


def _read_card(path: Path) -> str:
    """Text of a card whose metadata the Hub reads."""
    if not path.is_file():
        raise ReleaseError(
            f"{path} is missing: a training writes the model card; for another model fill in model_card.md by hand"
        )
    text = path.read_text(encoding="utf-8")
    try:
        metadata = ModelCard(text).data
    except Exception as error:  # no YAML, no mapping, or a model-index that cannot be read
        raise ReleaseError(
            f"{path}: the metadata between the lines --- cannot be read: {_first_line(error)}"
        ) from error
    for key, kinds, example in (
        ("license", (str,), "apache-2.0"),
        ("library_name", (str,), "transformers"),
        ("tags", (list,), "[text-based-person-search]"),
    ):
        value = metadata.get(key)
        if not isinstance(value, kinds) or not value:
            raise ReleaseError(f"{path}: the metadata between the lines --- need `{key}: {example}`, found {value!r}")
    if metadata.get("library_name") != "transformers":
        raise ReleaseError(f"{path}: library_name is {metadata.get('library_name')!r}, expected transformers")
    return text


def _left_out(folder: Path, files: Iterable[str]) -> dict[str, str]:
    left = sorted(
        path for path in folder.iterdir() if path.name not in set(files) and not path.name.startswith((".", "__"))
    )
    return {f"{path.name}/" if path.is_dir() else path.name: _reason(path) for path in left}


def _reason(path: Path) -> str:
    if path.is_dir():
        return "a checkpoint of the trainer" if path.name.startswith("checkpoint-") else "a folder"
    if path.suffix in _PICKLES:
        return "a pickle, which runs code when it is loaded; only safetensors is published"
    return "no part of a model"


def _require_own_files(release: Release) -> None:
    """No symbolic link: what it leads to may be any file of this machine."""
    for name in release.files:
        if (release.folder / name).is_symlink():
            raise ReleaseError(
                f"{release.folder / name} is a symbolic link: put the file itself there, if others may read it"
            )


def _require_nothing_private(release: Release, secrets: Sequence[str]) -> None:
    """No secret in any file; no path of a machine in card, settings and metadata, and nobody's home in code."""
    home = _below([Path(os.path.expanduser("~"))])  # Path.home() is an error for a user without one
    places = (_LOCAL_PATH, _WINDOWS_PATH, _own_paths(release.folder))
    for name in release.files:
        path = release.folder / name
        for place, text in _texts(release, name):
            kind = _secret_in(text, secrets)
            if kind is not None:
                article = "an" if kind.startswith(("A", "O")) else "a"
                raise ReleaseError(
                    f"{path}: {place} holds {article} {kind}: remove it, and revoke it if others could have read it"
                )
            patterns = () if name in _VOCABULARIES else (_HOME_PATH, home) if name.endswith(".py") else places
            found = next((match for pattern in patterns if (match := pattern.search(text))), None)
            if found:
                raise ReleaseError(
                    f"{path}: {place} names a path of a machine ({found[0]}): remove it before others read it"
                )


def _texts(release: Release, name: str) -> Iterator[tuple[str, str]]:
    """Everything readable in a file, piece by piece, each with its place."""
    path = release.folder / name
    if name.endswith(_WEIGHTS):
        for key, value in _read_metadata(path).items():
            yield f"{_without_secrets(key, ())} of the metadata", f"{key}={value}"
        return
    text = release.card_for("user/name") if name == CARD_FILE else _read_text(path)
    for number, line in enumerate(text.splitlines(), start=1):
        yield f"line {number}", line
        if path.suffix == ".json" and "\\" in line:
            plain = _JSON_ESCAPE.sub(lambda match: match[2] or chr(int(match[1], 16)), line)
            yield f"line {number}", plain


def _read_metadata(path: Path) -> dict[str, Any]:
    """What is written into a safetensors file beside the tensors, and the tensors' names."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= _LARGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        names = {f"tensor {number}": name for number, name in enumerate(header) if name != "__metadata__"}
        return {**header.get("__metadata__", {}), **names}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ReleaseError(f"{path}: the weights cannot be loaded: {_first_line(error)}") from error


def _secret_in(text: str, secrets: Iterable[str]) -> str | None:
    """The kind of secret that a text holds."""
    if any(secret in text for secret in secrets):
        return "Hugging Face token"
    return next((kind for kind, pattern in _SECRETS.items() if pattern.search(text)), None)


def _without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Settings are repeated in messages, and messages in logs."""
    for secret in secrets:
        text = text.replace(secret, "***")
    for pattern in _SECRETS.values():
        text = pattern.sub("***", text)
    return text


def _own_paths(folder: Path) -> re.Pattern[str]:
    """What lies in this machine's home, in the folder from which it publishes, or where the model's folder does."""
    home = Path(os.path.expanduser("~"))  # Path.home() is an error for a user without one
    return _below([home, Path.cwd(), *folder.absolute().parents, *folder.resolve().parents])


def _below(places: Iterable[Path]) -> re.Pattern[str]:
    """Paths below some folders."""
    names = sorted({re.escape(place.as_posix()) for place in places if place != Path(place.anchor)})
    return re.compile(rf"{_PATH_START}(?:{'|'.join(names) or '(?!)'})/[\w.@-]{_PATH_END}")  # (?!) is found nowhere


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{path} is no UTF-8 text ({error})") from error


def _require_loadable(folder: Path, values: dict[str, Any]) -> None:
    try:
        config = AgaConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise ReleaseError(f"{folder / CONFIG_FILE}: {_first_line(error)}") from error
    names = values.get("architectures") or ["AgaModel"]
    classes = {each.__name__: each for each in (AgaModel, AgaForPreTraining, AgaForImageTextRetrieval)}
    model_class = classes.get(str(names[0]))
    if model_class is None:
        raise ReleaseError(
            f"{folder / CONFIG_FILE}: architectures names {names[0]}, which is no class of this package"
        )
    _require_weights(folder, model_class)
    _require_processor(folder, config)


def _require_weights(folder: Path, model_class: Any) -> None:
    try:
        model, info = model_class.from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # damaged files and wrong shapes each fail with a type of their own
        raise ReleaseError(f"{folder}: the weights cannot be loaded: {_first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ReleaseError(
            f"{folder}: {len(missing)} weights are missing, such as {', '.join(missing[:3])}; loading would fill them "
            "with random numbers"
        )
    if left_over := sorted(info["unexpected_keys"]):
        raise ReleaseError(
            f"{folder}: config.json has no place for {len(left_over)} weights, such as {', '.join(left_over[:3])}; "
            "loading would leave them out: take the configuration that the model was trained with"
        )
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ReleaseError(f"{folder}: the weight {name} is not finite: the model is unusable")


def _require_processor(folder: Path, config: AgaConfig) -> None:
    try:
        processor = AgaProcessor.from_pretrained(folder, trust_remote_code=False)
        AgaProcessor.for_config(config, processor.tokenizer)
        size = processor.image_processor.size
        have = (size["height"], size["width"])
    except Exception as error:
        raise ReleaseError(f"{folder}: the processor does not fit the model: {_first_line(error)}") from error
    if have != tuple(config.vision_config.image_height_width):
        height, width = config.vision_config.image_height_width
        raise ReleaseError(
            f"{folder / PROCESSOR_FILE}: makes images of {have[0]}x{have[1]} pixels, the model takes {height}x{width}"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
