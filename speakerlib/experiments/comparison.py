"""Does a method beat its control? Paired on the same tasks, over test speakers and seeds, from run records alone."""

import numpy as np
import pandas as pd

from speakerlib.experiments.ideas import BUDGET, PLAIN, TREATMENT, names, with_starts

GOAL = 0.03  # what pretraining is asked to bring
LEAST_SEEDS = 3  # fewer are a hint
SHOTS = (1, 5)  # of the 5-way cells in the tables
CELLS = ["condition", "num_way", "num_support", "labelled_speakers"]
COLUMNS = [*CELLS, "seeds", "speakers", "control", "method", "difference", "low", "high"]
_LINE = list(dict.fromkeys([*BUDGET, *TREATMENT, *COLUMNS, "seen"]))


def compare(results, method, control):
    """How much more accurate one method is than another on the same tasks: a row for each cell of CELLS.

    results: rows of read_results; method, control: {column: value, or a list of values} that choose rows of it, one
    for each seed and cell. Columns: seeds and speakers (their numbers), control and method (mean accuracies),
    difference, low, high. Each test speaker counts once, whatever the number of its queries. low, high: the 95 %
    bootstrap interval over test speakers and seeds, both drawn again; the methods are apart if it excludes 0. It needs
    three seeds or more to know what seeds add.

    Only seeds that both have are compared, and cells of which the records hold `by_speaker`. ValueError if there are
    none, if two runs fill one cell of a seed, or if the two did not meet the same tasks.
    """
    return paired(_chosen(results, method, "method"), _chosen(results, control, "control"))


def paired(method, control):
    """As compare does, of the rows themselves."""
    pairs = [_by_cell(rows, name) for rows, name in ((method, "method"), (control, "control"))]
    lines = []
    for cell in [cell for cell in pairs[0] if cell in pairs[1]]:
        ours, theirs = pairs[0][cell], pairs[1][cell]
        seeds = sorted(set(ours) & set(theirs))
        if seeds:
            lines.append({**dict(zip(CELLS, cell)), **_paired_cell(cell, [(ours[s], theirs[s]) for s in seeds])})
    if not lines:
        raise ValueError(f"nothing to compare: the method has seeds {_seeds(method)}, the control {_seeds(control)}, "
                         "and no cell of a common seed with accuracies by speaker. Run both with the same seeds; runs "
                         "of before accuracies were kept by speaker have to be deleted and run again.")
    return pd.DataFrame(lines, columns=COLUMNS)


def comparisons(results, pretraining):
    """Each idea that was tried against the same training from scratch: (lines, waiting), two DataFrames.

    results, pretraining: rows of read_results("05_protonet_training") and read_runs("04_mae_pretraining"). The
    control shares everything in BUDGET, starts from random weights, and lacks what TREATMENT names. lines: the
    columns of compare and of both lists, and `seen`: whether the channels of condition `changed` were met in training
    or pretraining. waiting: the ideas without a control, one row each.
    """
    lines, waiting = [], []
    for _, group in _comparable(results, pretraining).groupby(BUDGET, dropna=False, sort=False):
        control, ideas = group[_is_control(group)], group[~_is_control(group)]
        for facts, tried in _ideas(ideas):
            if set(tried["seed"]) & set(control["seed"]):
                lines += _lines(facts, tried, control)
            else:
                waiting.append({**facts, "seeds": _seeds(tried)})
    return pd.DataFrame(lines, columns=_LINE), pd.DataFrame(waiting, columns=[*BUDGET, *TREATMENT, "seeds"])


def against_longer(results, pretraining):
    """Each pretrained idea against training from scratch for more steps, all else being equal: lines as of comparisons.

    `control_steps`: those of the control. Pretraining took time too; this asks whether that time was better spent so.
    """
    lines, shared = [], [name for name in BUDGET if name not in ("num_train_iterations", "test_interval")]
    for _, group in _comparable(results, pretraining).groupby(shared, dropna=False, sort=False):
        for steps, control in group[_is_control(group)].groupby("num_train_iterations"):
            shorter = group[group["pretrained"] & (group["num_train_iterations"] < steps)]
            for _, alike in shorter.groupby(BUDGET, dropna=False, sort=False):
                for facts, tried in _ideas(alike):
                    if set(tried["seed"]) & set(control["seed"]):
                        lines += [{**line, "control_steps": steps} for line in _lines(facts, tried, control)]
    return pd.DataFrame(lines, columns=[*_LINE, "control_steps"])


def _comparable(results, pretraining):
    """The rows that have accuracies by speaker, with their starts."""
    rows = with_starts(results, pretraining)
    return rows[rows.get("by_speaker", pd.Series(None, index=rows.index, dtype=object)).notna()]


def _is_control(rows):
    """From random weights, and nothing else tried."""
    plain = ~rows["pretrained"]
    for name in ("frozen_blocks", "layer_decay", "norm_statistics"):
        plain &= rows[name] == PLAIN[name]
    return plain


def _ideas(rows):
    """[(facts, rows, one a seed)] of each idea among rows of one budget."""
    for _, tried in rows.groupby(TREATMENT, dropna=False, sort=False):
        yield tried.iloc[0][[*BUDGET, *TREATMENT]].to_dict(), _one_a_seed(tried)


def _lines(facts, tried, control):
    return [{**facts, **line, "seen": _seen(facts, tried, line["condition"])}
            for line in paired(tried, control).to_dict("records")]


def condition_name(row):
    """`recorded`, `changed` (family I), or `changed (II)`: conditions that are never one column."""
    family = row.get("channel_family")
    return row["condition"] if not isinstance(family, str) or family == "I" else f"{row['condition']} ({family})"


def help_tables(lines):
    """Whether pretraining helps, as [(caption, DataFrame of strings), ...], a table a number of labelled speakers.

    A block for each control: first its accuracy, then the differences of what was tried against it. lines: of
    comparisons, or of against_longer (then a table for each number of the control's steps, too).
    """
    tables = []
    for count in sorted(lines["labelled_speakers"].unique(), key=lambda count: count or np.inf):
        part = lines[(lines["labelled_speakers"] == count) & lines["num_support"].isin(SHOTS)]
        question = f"Does pretraining help, with {f'{count:.0f}' if count else 'all'} training speakers labelled?"
        if "control_steps" not in part:
            tables.append((f"{question} {_shared(part)}", _help_table(part)))
            continue
        for steps, alike in part.groupby("control_steps"):
            tables.append((f"{question} Against {steps:.0f} steps from scratch: {_shared(alike)}", _help_table(alike)))
    return tables


def what_is_missing(lines, waiting, corpus):
    """A sentence on what has no comparison yet, and the command that makes it."""
    if len(waiting):
        told = sorted(f"{idea} ({row['labelled_speakers'] or 'all'} labelled speakers, seeds {row['seeds']})"
                      for idea, row in zip(names(waiting), waiting.to_dict("records")))
        return ("Without a control of the same settings and seed, so not compared: " + "; ".join(told)
                + ". Run chapter 05 with the same parameters and `init` scratch.")
    if len(lines):
        return "Every idea that was tried has its control."
    return ("No idea was tried yet beside its control. Run `speakerlib sweep` with a file of `notebooks/sweeps`, or "
            f"`speakerlib run 04_mae_pretraining -p corpus {corpus}`, then chapter 05 twice: with `init` scratch, and "
            "with the name of that run. (Runs of before accuracies were kept by speaker are not compared.)")


def ideas_of(lines):
    """The lines with the columns `idea` (a short name) and `start` (the control's name)."""
    if lines.empty:
        return lines.assign(idea=[], start=[])
    bare = {"pretrained": False, "frozen_blocks": 0, "layer_decay": 1.0, "norm_statistics": "batch"}
    return lines.assign(idea=names(lines), start=names(lines.assign(**bare)))


def _help_table(lines):
    lines, table = ideas_of(lines), {}
    for start, block in lines.groupby("start"):
        controls = block.sort_values("seeds").groupby("condition num_support".split(), sort=False).last().reset_index()
        texts = {_column(line): f"{100 * line['control']:.1f}" for line in controls.to_dict("records")}
        name = start.replace("no pretraining", "from scratch")
        table[f"{name}: accuracy"] = {"seeds": block["seeds"].max(), **texts}
        for idea, tried in block.groupby("idea"):
            texts = {_column(line): difference(line) for line in tried.to_dict("records")}
            table[idea] = {"seeds": tried["seeds"].max(), **texts}
    columns = lines.sort_values(["num_support"], kind="stable").sort_values(
        "condition", kind="stable", key=lambda names: names.map(lambda name: (name != "recorded", name)))
    frame = pd.DataFrame.from_dict(table, orient="index").rename_axis("start").fillna("")
    return frame[["seeds", *dict.fromkeys(_column(line) for line in columns.to_dict("records"))]]


def difference(line):
    """Points, as +3.5 (+0.3 to +6.8); a star where the goal is reached, a dagger where it is no evidence."""
    text = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * line[name] for name in ("difference", "low", "high")))
    return text + " ★" * reaches_goal(line) + " †" * bool(line["seen"])


def reaches_goal(line):
    """Whether a line brings GOAL with its interval above 0, by three seeds at least."""
    return bool(line["seeds"] >= LEAST_SEEDS and line["low"] > 0 and line["difference"] >= GOAL)


def _column(line):
    return f"{line['condition']} {line['num_support']:.0f}-shot"


def _shared(lines):
    """What all lines of a table have in common, for its caption."""
    first = lines.iloc[0]
    told = {"corpus": "{}", "front_end": "{}", "segment_seconds": "{:g} s", "encoder": "{}",
            "num_train_iterations": "{:.0f} steps"}
    parts = [text.format(first[name]) for name, text in told.items() if lines[name].nunique() == 1]
    return f"{lines['num_way'].iloc[0]:.0f}-way, {', '.join(parts)}"


def _chosen(results, where, who):
    chosen = pd.Series(True, index=results.index)
    for name, value in where.items():
        if name not in results:
            raise ValueError(f"{who}: results have no column {name!r}. They have: {', '.join(map(str, results))}.")
        chosen &= results[name].isin(value if isinstance(value, (list, tuple, set)) else [value])
    if not chosen.any():
        raise ValueError(f"{who}: no row of the results has {where}.")
    return results[chosen]


def _by_cell(rows, who):
    """cell -> {seed: row}, of the rows that have accuracies by speaker."""
    cells = {}
    for row in rows.to_dict("records"):
        if isinstance(row.get("by_speaker"), dict) and row["by_speaker"]:
            cell = (condition_name(row), row["num_way"], row["num_support"], row.get("labelled_speakers", 0))
            seeds = cells.setdefault(cell, {})
            if row["seed"] in seeds:
                raise ValueError(f"{who}: runs {seeds[row['seed']]['run']} and {row['run']} both fill {_text(cell)} of "
                                 f"seed {row['seed']}. Choose by more columns, so that one is left.")
            seeds[row["seed"]] = row
    return cells


def _paired_cell(cell, pairs):
    for ours, theirs in pairs:
        if ours.get("episodes") != theirs.get("episodes") or set(ours["by_speaker"]) != set(theirs["by_speaker"]):
            raise ValueError(f"{_text(cell)}, seed {ours['seed']}: runs {ours['run']} and {theirs['run']} met other "
                             f"tasks (episodes {ours.get('episodes')} and {theirs.get('episodes')}). Runs are compared "
                             "on the same tasks only: same corpus, seed, num_query, test_tasks and rule.")
    ours, theirs = (pd.DataFrame([pair[i]["by_speaker"] for pair in pairs]).to_numpy(dtype=float) for i in (0, 1))
    low, high = interval_over_speakers_and_seeds(ours - theirs)
    control, method = np.nanmean(theirs), np.nanmean(ours)
    return {"seeds": len(pairs), "speakers": ours.shape[1], "control": control, "method": method,
            "difference": method - control, "low": low, "high": high}


def interval_over_speakers_and_seeds(values, seed=0, draws=4000):
    """95 % bootstrap interval of the mean of values (seeds, speakers), rows and columns both drawn again (Owen 2007).

    NaN: a speaker that had no query with that seed. What seeds add is stretched by sqrt(n / (n - 1)), since n seeds
    drawn again from themselves vary less than n new ones. With three seeds it is still too narrow where seeds matter
    as much as speakers: simulated, it held the true mean in 85 of 100 cases there, in 91 to 93 where they matter less.
    """
    known = np.isfinite(values)
    if len(values) > 1:
        means = np.nanmean(values, axis=1, keepdims=True)
        values = values + (np.sqrt(len(values) / (len(values) - 1)) - 1) * (means - means.mean())
    rng = np.random.default_rng(seed)
    rows, columns = (rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float) for n in values.shape)
    total = np.einsum("ds,sp,dp->d", rows, np.where(known, values, 0), columns, optimize=True)
    count = np.einsum("ds,sp,dp->d", rows, known.astype(float), columns, optimize=True)
    means = total[count > 0] / count[count > 0]
    return tuple(float(value) for value in np.percentile(means, [2.5, 97.5]))


def _one_a_seed(rows):
    """Where a seed was tried from several autoencoders, the one of its own seed."""
    own = (rows["start_seed"] == rows["seed"]).astype(int)
    rows = rows.assign(_own=own).sort_values("_own", ascending=False, kind="stable")
    first = rows.groupby("seed")["run"].transform("first")
    return rows[rows["run"] == first].drop(columns="_own")


def _seen(facts, rows, condition):
    """Whether the channels of this condition were met before the test."""
    if condition == "recorded":
        return False
    tested = rows[rows["condition"] != "recorded"]
    families = {row.get("channel_family") for row in tested.to_dict("records") if condition_name(row) == condition}
    return bool(families & {facts["augment"], facts["start_augment"]})


def _seeds(rows):
    return ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))


def _text(cell):
    return f"{cell[0]}, {cell[1]:.0f}-way {cell[2]:.0f}-shot, labelled_speakers={cell[3]:.0f}"
