"""
Every figure in the documents that a bench made comes from a result file of the repository.

Pages that a bench writes are written again and compared. Of the others each sentence and each row of a table with such
figures is made again from the result file, and has to stand in the page. Where a page names a bench or a result file,
its figures are here, or a reason why there are none.
"""

import json
import re
from statistics import median

import pytest

from benchmarks.places import RESULTS, ROOT
from benchmarks.runner import benches
from benchmarks.search import filtered_search

pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
from benchmarks.quality.quality import name_of
from benchmarks.quality.report import page as written_page
from benchmarks.quality.settings import load_settings
from benchmarks.quality.summary import summarise

DOCS = ROOT / "docs"
SETTINGS = ROOT / "benchmarks" / "quality"
WRITTEN = {
    name_of(path): path for path in [*SETTINGS.glob("*.yaml"), *SETTINGS.glob("*/bench.yaml")] if path.stem != "smoke"
}
# Decimals of findings that no run measured, by page.
NOT_MEASURED = {
    "bert": {"0.02", "0.057"},  # standard deviations that weights begin with, from its settings
}
# Figures of benches without a result file in the repository, by page.
NO_RESULT_FILE = {
    "checkpoints/aga-small-rendered/README.md": "the table of `photographs`, whose crops are not in the repository, "
    "and the card's own metrics, which the training wrote",
}
# Benches and result files that a page names without giving figures of theirs, and why.
NO_FIGURES = {
    "README.md": {"quality": "its pages have them"},
    "docs/search.md": {
        "photographs": "the reader's own photographs",
        "deletion": "only named: no result is in the repository",
        "erasure": "it links to the counts, which its own test looks at",
        "gallery": "only named",
        "query_latency": "only named",
        "index_kills": "only named",
    },
    "docs/evaluation.md": {"evaluation": "only named"},
    "docs/export.md": {"export": "only named"},
    "docs/training.md": {"speed": "only named; docs/speed.md has its figures"},
    "docs/install.md": {"install_size": "tests/test_install.py compares every row"},
    "CONTRIBUTING.md": {"install_size": "only named"},
}


# --- pages that a bench writes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_written_page_is_what_its_results_say(name):
    path, doc, out = WRITTEN[name], DOCS / f"{name}.md", RESULTS / name
    command = "python -m benchmarks quality"
    if path != SETTINGS / "bench.yaml":
        command += f" --settings {path.relative_to(ROOT).as_posix()}"
    assert doc.read_text(encoding="utf-8") == written_page(summarise(load_settings(path), out), out, doc, command)


def test_every_written_page_is_known():
    found = {
        path.stem for path in DOCS.rglob("*.md") if path.read_text(encoding="utf-8").startswith("<!-- Written by")
    }
    assert found == set(WRITTEN)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_what_was_found_is_in_the_tables(name):
    """Each decimal of the findings, which people write, is one of the page or of one that they link to, rounded."""
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    findings = load_settings(WRITTEN[name]).findings
    linked = [(DOCS / page).read_text(encoding="utf-8") for page in re.findall(r"\]\((\w+\.md)\)", findings)]
    known = [float(number) for number in _decimals("\n".join([text.replace(findings, ""), *linked]))]
    for number in set(_decimals(findings)) - NOT_MEASURED.get(name, set()):
        digits = len(number.partition(".")[2])
        assert any(abs(value - float(number)) <= 0.5001 * 10**-digits for value in known), number


def _decimals(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])\d+\.\d+", text)


# --- pages that people write ------------------------------------------------------------------------------------


def _results(name: str, part: str = "results"):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))[part]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _speed() -> list[str]:
    found = _results("speed_vit-b16_cpu_float32")
    field, aga, parts = found["reference"], found["aga"], found["aga"]["rounds"][0]["parts"]
    vision = parts["vision"]
    rows = [
        _row("IRRA's step, the field's way", f"{field['seconds']:.1f}", 1, f"{field['peak_mib']:,.0f}", 1),
        _row("padded to 77 tokens", f"{found['texts_padded']['seconds']:.1f}", 1),
    ]
    for way, label in (("irra", "IRRA's step, this package"), ("aga", "AGM + TEM, this package")):
        one = found[way]
        cells = f"{one['peak_mib']:,.0f}", f"{one['share_of_memory']:.2f}"
        rows.append(_row(label, f"{one['seconds']:.1f}", _spread(one["faster_by"]), *cells))
    for way, label in (
        ("texts_batch", "padded to the longest of the batch"),
        ("texts_grouped", "the same, batches of captions of like length (as `aga evaluate` does)"),
    ):
        rows.append(_row(label, f"{found[way]['seconds']:.1f}", _spread(found[way]["faster_by"])))
    assert found["irra"]["largest_difference"] <= 1e-6
    assert max(found[way]["largest_difference"] for way in ("texts_batch", "texts_grouped")) <= 2e-7
    return [
        *rows,
        "On the same masks the losses differ by no more than 1e-6.",
        f"take {vision:.1f} s of the step with AGM and TEM "
        f"({field['rounds'][0]['parts']['vision']:.1f} s in the field's way)",
        f"the step is at {aga['seconds'] / vision:.2f} times of it.",
        f"reach {aga['share_of_ceiling']:.0%} of what the machine's own matrix product gives",
        "The embeddings differ by no more than 2e-7.",
    ]


def _data_loader() -> list[str]:
    rows = []
    for one in _results("data_loader_cpu", "data"):
        paces = [f"{median(one['pairs_per_second'][way]):.0f}" for way in ("field", "package")]
        images = f"{one['images']} of {one['height']}x{one['width']}"
        rows.append(_row(images, one["workers"], *paces, _spread(one["faster_by"])))
    return rows


def _awm_step() -> list[str]:
    labels = {
        "awm": "at full size",
        "awm_three_quarters": "at three quarters of height and width (`image_score_resolution: 0.75`)",
        "awm_reduced": "at half of height and width (`image_score_resolution: 0.5`)",
        "random": "random dropping, which needs no momentum model",
    }
    found = _results("awm_step")
    return [_row(label, _spread(found[way]["faster_by"])) for way, label in labels.items()]


def _demo_load() -> list[str]:
    found, settings = _results("demo_load"), _results("demo_load", "settings")
    asked, long, memory = found["queries"], found["long_sentences"], found["memory_mib"]
    ends = asked["ends"]
    assert set(ends) == {"answered", "refused"} and long["statuses"] == {"413": long["number"]}
    seconds = f"p50 {asked['p50_seconds']:.2f}, p95 {asked['p95_seconds']:.2f}, at most {asked['max_seconds']:.2f}"
    return [
        f"{found['images']} rendered images, a token. {settings['strangers']} strangers",
        f"{settings['clients']} clients ask for a sentence at the same moment",
        f"one sends a sentence of {settings['megabytes']} MB",
        _row("queries", f"{asked['number']}: {ends['answered']} answered, {ends['refused']} told to come again"),
        _row("seconds until the answer or the refusal", seconds),
        _row(
            f"sentences of {settings['megabytes']} MB",
            f"{long['number']}, all refused (413), after at most {long['max_seconds']:.2f} s",
        ),
        _row(
            "memory of the process",
            f"idle {memory['idle']:.0f} MiB, at most {memory['highest']:.0f} MiB: {memory['ratio']:.2f} times",
        ),
    ]


def _explanation() -> list[str]:
    labels = {
        "occlusion": "**occlusion** (default)",
        "cross_attention": "cross-attention, mean over heads",
        "cross_attention_max": "cross-attention, maximum over heads",
        "grad_cam": "Grad-CAM of ITM on cross-attention (ALBEF's way)",
        "patch_text": "patch-text similarity in the joint space",
        "relevance": "relevance in the vision tower (Chefer et al., ICCV 2021)",
        "occlusion_left_out": "occlusion, word left out instead of masked",
        "occlusion_sentence": "occlusion of the whole sentence's similarity",
        "usual_place": "the usual place of such things, without looking",
        "chance": "chance",
    }
    found, words = _results("explanation"), _results("explanation", "contributions")
    rows = []
    for way, label in labels.items():
        low, high = found[way]["pointing_interval"]
        pointing = f"{found[way]['pointing']} ({low}-{high})"
        rows.append(_row(label, pointing, found[way]["inside"], found[way]["third"]))
    pairs = [
        f"{found['occlusion_1'][name]} / {found['occlusion_3'][name]}" for name in ("pointing", "inside", "third")
    ]
    rows.append(_row("occlusion, windows of half / one and a half times the side", *pairs))
    for way, label in (("occlusion", "occlusion"), ("usual_place", "the usual place"), ("chance", "chance")):
        by_thing = found[way]["pointing_by_thing"]
        rows.append(_row(label, *(by_thing[kind] for kind in ("upper", "lower", "hat", "hair", "bag", "shoes"))))
    return [
        *rows,
        f"draws {_results('explanation', 'settings')['images']} people",
        f"over {found['chance']['words']:,} colour words and nouns",
        f"in {words['larger_where_right']}% of {words['words']} pairs, positive for {words['positive_where_right']}% "
        f"of the right words and for {words['positive_where_wrong']}% of the wrong ones",
        f"{words['pointing_where_against']}% have their heat on the thing",
    ]


def _filtered_search() -> list[str]:
    rows = filtered_search.markdown(_results("filtered_search")).splitlines()
    passing = [
        row["rows"]
        for gallery in _results("filtered_search")
        for name, row in gallery["filters"].items()
        if name != "camera night"
    ]
    settings = _results("filtered_search", "settings")
    return [
        *rows,
        f"on galleries of {settings['rows']:,} images",
        f"leave {round(min(passing), -2)} to {round(max(passing), -3):,} images",
    ]


def _faces_hidden() -> list[str]:
    wide, close = (_results("faces_hidden")[name] for name in ("as they are", "cut close"))
    ours, ours_close = wide["as the package does"], close["as the package does"]
    alone = [side["face detectors alone"]["faces_hidden"] for side in (wide, close)]
    assert ours_close["faces_hidden"] == ours_close["faces"]
    return [
        f"Of {ours['faces']} faces in {_results('faces_hidden', 'settings')['images']} crops from a street camera",
        f"{ours['faces_hidden']} are hidden, of {ours_close['faces']} in the same crops cut close to the person all; "
        f"{100 * ours['area_hidden_needlessly']:.0f} and {100 * ours_close['area_hidden_needlessly']:.0f} % of the",
        f"face detectors alone find {alone[0]} and {alone[1]}.",
    ]


def _people_found() -> list[str]:
    total = _results("people_found")["all"]
    return [f"vtest.avi {total['found']} of {total['people']} visible people, with {total['false']} false boxes"]


def _reranking() -> list[str]:
    found, settings = _results("reranking"), _results("reranking", "settings")
    paces = [
        f"{found[way]['seconds']:.0f} s and {found[way]['peak_mib']:.0f} MiB"
        for way in ("package", "field", "field_unpadded")
    ]
    return [
        f"{settings['queries']:,} captions x {settings['top_k']} images",
        f"{paces[0]} against {paces[1]}, and against {paces[2]} without the field's padding",
    ]


def _training_kills() -> list[str]:
    found = _results("training_kills")
    assert found["resumes_that_failed"] == found["ends_that_differ"] == 0
    return [
        f"kills a training {found['kills']} times at random moments",
        f"{found['runs']} runs, {found['kills_while_saving']} kills while a checkpoint or the model was being written",
        "every resume worked and no end differed",
    ]


def _pretrained_text() -> list[str]:
    starts, settings = _results("pretrained_text", "starts"), _results("pretrained_text", "settings")
    rank1 = {start: f"{one['rank1']['mean']:.1f} ± {one['rank1']['sd']:.1f}" for start, one in starts.items()}
    return [
        f"{settings['run']['max_steps']} steps reach a Rank-1 of {rank1['pretrained']} among "
        f"{settings['data']['test_identities']} persons, with random ones {rank1['random']}",
        f"{starts['random']['rank1']['seeds']} seeds)",
    ]


# Page -> bench or result file -> what the page says, from the result.
SAID = {
    "README.md": {"pretrained_text": _pretrained_text},
    "docs/demo.md": {"demo_load": _demo_load},
    "docs/evaluation.md": {"reranking": _reranking},
    "docs/explain.md": {"explanation": _explanation},
    "docs/search.md": {
        "faces_hidden": _faces_hidden,
        "filtered_search": _filtered_search,
        "people_found": _people_found,
    },
    "docs/speed.md": {"speed": _speed, "data_loader_cpu": _data_loader, "awm_step": _awm_step},
    "docs/training.md": {"training_kills": _training_kills},
}


@pytest.mark.parametrize("page, bench", [(page, bench) for page, said in SAID.items() for bench in said])
def test_the_page_says_what_the_result_says(page, bench):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    for said in SAID[page][bench]():
        assert said in text


@pytest.mark.parametrize("page", sorted(SAID.keys() - {"README.md"}))  # whose tables are of recipes and formats
def test_every_row_of_figures_beside_a_bench_is_from_a_result(page):
    """All rows with digits in sections that name a bench."""
    made = {line for said in SAID[page].values() for line in said()}
    for section in re.split(r"^## ", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE):
        if _named(section) & SAID[page].keys():
            for row in re.findall(r"^\|.*\d.*\|$", section, re.MULTILINE):
                assert row in made or row in _headers(section), row


def _headers(section: str) -> set[str]:
    return set(re.findall(r"^(\|.*\|)\n\| ?:?---", section, re.MULTILINE))


def _named(text: str) -> set[str]:
    """Benches and result files that a text names."""
    files = {name.removesuffix("_vit-b16_cpu_float32") for name in re.findall(r"results/(\w[\w-]*)\.json", text)}
    return files | set(re.findall(r"python -m benchmarks (\w+)", text))


def test_every_bench_that_a_page_names_is_looked_at():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    files = {path.stem for path in RESULTS.glob("*.json")} | {"speed"}
    for path in pages:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("docs/") and path.stem in WRITTEN:
            continue
        known = SAID.get(name, {}).keys() | NO_FIGURES.get(name, {}).keys()
        found = _named(path.read_text(encoding="utf-8"))
        assert found == known, f"{name}: {sorted(found ^ known)} is not in SAID or NO_FIGURES, or not named any more"
        assert found <= benches().keys() | files
    assert all((ROOT / page).is_file() and reason for page, reason in NO_RESULT_FILE.items())
