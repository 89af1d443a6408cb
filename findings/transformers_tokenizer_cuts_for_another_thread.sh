#!/usr/bin/env bash
# Two threads that call one fast tokenizer get each other's truncation, without an error.
#
# One would expect that the arguments of a call, `truncation=True, max_length=8`, say how this call is cut. But a fast
# tokenizer keeps truncation and padding as a state of its one Rust object: a call sets the state and then encodes, and
# another thread's call can come between the two. A search service whose threads share a tokenizer then reads eight words
# of a user's sentence of fifty, or fifty where a model takes eight, now and then, and nothing tells.
#
# Prints the versions and how many of each thread's calls came back with the other thread's length; ends with 1 if
# none did.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cat > "$place/main.py" <<'PYTHON'
import sys
import threading
from importlib.metadata import version

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

CALLS = 20_000
words = Tokenizer(WordLevel({"man": 0, "[UNK]": 1, "[PAD]": 2}, unk_token="[UNK]"))
words.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
sentence = "man " * 50
wrong = {"whole": 0, "cut": 0}


def ask(name, length, **options):
    for _ in range(CALLS):
        wrong[name] += len(tokenizer(sentence, **options)["input_ids"]) != length


threads = [
    threading.Thread(target=ask, args=("whole", 50)),
    threading.Thread(target=ask, args=("cut", 8), kwargs={"truncation": True, "max_length": 8}),
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("transformers", version("transformers"), "tokenizers", version("tokenizers"))
print(f"of {CALLS} calls each, of another length than asked for: {wrong}")
sys.exit(0 if sum(wrong.values()) else 1)
PYTHON
"$place/venv/bin/python" "$place/main.py"
