"""What a run of chapter 05 tries: which autoencoder it starts from and what becomes of it, named in a few words."""

import pandas as pd

from speakerlib.experiments.pretrained import SCRATCH

PLAIN = {  # chapter 05 with no idea beyond work A's
    "encoder": "conv6",
    "labelled_speakers": 0,
    "augment": "none",
    "frozen_blocks": 0,
    "layer_decay": 1.0,
    "norm_statistics": "batch",
}
PLAIN_MASK = {"mask": "boxes", "mask_ratio": 0.75}
PLAIN_AUTOENCODER = {"encoder": "conv6", "target": "clip", "augment": "none", "agreement": 0.0}
PLAIN_START = {**PLAIN_MASK, **PLAIN_AUTOENCODER}  # chapter 04 likewise

START = [  # what is known of the run of chapter 04 that a run starts from, in columns start_<name>
    *PLAIN_START,
    "corpus",
    "protocol",
    "batch_size",
    "learning_rate",
    "num_train_iterations",
    "seed",
]
BUDGET = [  # what a run shares with its control from scratch
    "corpus",
    "corpus_fingerprint",
    "synthetic",
    "front_end",
    "segment_seconds",
    "encoder",
    "augment",
    "protocol",
    "episode_rule",
    "trained_num_way",
    "trained_num_support",
    "num_query",
    "batch_size",
    "learning_rate",
    "num_train_iterations",
    "test_interval",
    "test_tasks",
    "labelled_speakers",
]
TREATMENT = [  # what the control lacks
    "pretrained",
    *(f"start_{name}" for name in START if name != "seed"),
    "frozen_blocks",
    "layer_decay",
    "norm_statistics",
]

_TARGETS = {"mean_normalised": "mean-normalised target", "patch_normalised": "patch-normalised target"}
_STATISTICS = {"pretrained": "BatchNorm of the pretraining", "unlabelled": "BatchNorm of unlabelled clips"}


def with_starts(results, pretraining=None):
    """The rows of read_results, with the columns `pretrained` and start_<name> of the autoencoder each began from.

    pretraining: rows of read_runs("04_mae_pretraining"), joined by the run's id; what they lack is taken from the
    run's own record of its weights.
    """
    known = {} if pretraining is None or pretraining.empty else pretraining.set_index("run").to_dict("index")
    starts = {}
    for run, init, facts in zip(results["run"], results["init"], results.get("init_weights", [None] * len(results))):
        if run not in starts and init != SCRATCH:
            facts = facts if isinstance(facts, dict) else {}
            found = known.get(init) or known.get(facts.get("run")) or {}
            starts[run] = PLAIN_AUTOENCODER | {  # the oldest records do not say: there was nothing else
                name: value for source in (facts, found) for name, value in source.items()
                if name in START and not _absent(value)}
    columns = {f"start_{name}": [starts.get(run, {}).get(name) for run in results["run"]] for name in START}
    return results.assign(pretrained=results["init"] != SCRATCH, **columns)


def plain(results, pretraining=None, every_seed=False):
    """The rows without any later idea: from scratch, or from an autoencoder of chapter 04's defaults.

    Of several seeds, the lowest, unless every_seed. results: rows of read_results, or of read_runs.
    """
    if results.empty:
        return results
    rows = with_starts(results, pretraining)
    chosen = pd.Series(True, index=rows.index)
    for name, value in PLAIN.items():
        chosen &= rows[name] == value
    for name, value in PLAIN_START.items():
        chosen &= (rows[f"start_{name}"] == value) | ~rows["pretrained"]
    rows = rows[chosen]
    if every_seed:
        return results.loc[rows.index]
    recipe = [name for name in BUDGET if name in rows and not name.startswith("trained_")]
    lowest = rows.groupby([*recipe, "pretrained"], dropna=False)["seed"].transform("min")
    return results.loc[rows.index[rows["seed"] == lowest]]


def names(ideas):
    """A short name for each row of a table with the columns of BUDGET and TREATMENT; a list.

    It tells what departs from work A, and of the rest what differs among the rows.
    """
    differs = {name for name in ideas if ideas[name].astype(str).nunique() > 1}
    starts = ideas[ideas["pretrained"].astype(bool)]
    several_masks = {"start_mask", "start_mask_ratio"} <= set(ideas) and {
        encoder for encoder, rows in starts.groupby("encoder") if len(rows[["start_mask", "start_mask_ratio"]]
                                                                      .drop_duplicates()) > 1}
    alike = {encoder: {name for name in rows if rows[name].astype(str).nunique() > 1}
             for encoder, rows in starts.groupby("encoder")}  # one encoder may need more steps than another
    return [", ".join(filter(None, _phrases(row, differs, alike.get(row["encoder"], ()), several_masks)))
            for row in ideas.to_dict("records")]


def _phrases(row, differs, starts_differ, several_masks):
    def if_differs(name, text):
        return text.format(row[name]) if name in differs else ""

    yield "" if row["encoder"] == PLAIN["encoder"] else row["encoder"]
    yield "" if row["front_end"] == "compact" else row["front_end"]
    yield if_differs("segment_seconds", "{:g} s")
    yield if_differs("protocol", "{}")
    if {"trained_num_way", "trained_num_support"} & differs:
        yield f"trained {row['trained_num_way']:.0f}-way {row['trained_num_support']:.0f}-shot"
    yield if_differs("batch_size", "{:.0f} tasks a step")
    yield if_differs("learning_rate", "rate {:g}")
    yield if_differs("num_train_iterations", "{:.0f} steps")
    yield if_differs("num_query", "{:.0f} queries")
    yield if_differs("test_tasks", "{:.0f} test tasks")
    yield if_differs("test_interval", "tested each {:.0f} steps")
    yield if_differs("episode_rule", "rule {}")
    yield if_differs("corpus", "{}")
    yield if_differs("corpus_fingerprint", "corpus version {}")
    yield "" if row["augment"] == PLAIN["augment"] else f"trained through channels {row['augment']}"
    own = [f"first {row['frozen_blocks']:.0f} blocks frozen" if row["frozen_blocks"] else "",
           "" if row["layer_decay"] == 1 else f"lower blocks slowed (×\N{NO-BREAK SPACE}{row['layer_decay']:g})",
           _STATISTICS.get(row["norm_statistics"], "")]
    if row["pretrained"]:
        own = [*_start_phrases(row, several_masks), *_pretraining_phrases(row, starts_differ), *own]
        yield from own if any(own) else ["masked autoencoder"]
    else:
        yield from ["no pretraining", *own]


def _start_phrases(row, several_masks):
    if "start_mask" in row:
        usual = (row["start_mask"], row["start_mask_ratio"]) == (PLAIN_START["mask"], PLAIN_START["mask_ratio"])
        if row["encoder"] in several_masks or not usual:
            yield f"{row['start_mask']} {100 * row['start_mask_ratio']:.0f} %"
    yield _TARGETS.get(row["start_target"], "")
    if row["start_agreement"]:
        weight = "" if row["start_agreement"] == 0.5 else f" ({row['start_agreement']:g})"
        yield "agreement of utterances alone" if row["start_agreement"] == 1 else f"filling in and agreement{weight}"
    if row["start_augment"] != PLAIN_START["augment"]:
        yield f"{'pretrained through' if row['start_agreement'] else 'denoising'} channels {row['start_augment']}"
    yield "" if row["start_corpus"] in (row["corpus"], None) else f"pretrained on {row['start_corpus']}"


def _pretraining_phrases(row, differs):
    texts = {"start_protocol": "pretraining {}", "start_batch_size": "pretraining {:.0f} clips a step",
             "start_learning_rate": "pretraining rate {:g}", "start_num_train_iterations": "pretraining {:.0f} steps"}
    for name, text in texts.items():
        if name in differs and not _absent(row[name]):
            yield text.format(row[name])


def _absent(value):
    return value is None or (isinstance(value, float) and value != value)
