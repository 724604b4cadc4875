"""What a sweep says: before (how long), meanwhile (a bar of runs) and after (a table)."""

import time

import pandas as pd

from speakerlib.data.files import read_json, write_table
from speakerlib.experiments.records import read_runs

COLUMNS = ["step", "name", "notebook", "status", "seconds", "wall_seconds", "commit", "error", "cell", "executed",
           "folder"]
_KIND = ("front_end", "segment_seconds", "encoder", "width")  # runs of a kind differ in time by their size alone
_JUDGED = ("test_tasks", "trials_per_speaker")  # of a kind too where nothing is trained: most of the time may be theirs
_SIZE = ("num_train_iterations", "batch_size", "num_way", "nb_class_train")


def estimates(runs):
    """run folder -> seconds that the run should take, learnt from complete runs of its notebook; None if unknown.

    The earlier run that is nearest in size counts, and more or less in proportion to the size: steps x batch (x clips
    of a task, or of an episode). Only runs of the same front end, segment length, encoder and width are compared; those
    that only judge, if they have as many tasks and trials.
    """
    known = {}
    for notebook in {run.notebook for run in runs}:
        for record in read_runs(notebook).to_dict("records"):
            if record.get("wall_seconds", 0) > 0:
                parameters = record["record"]["parameters"]
                known.setdefault(_kind(notebook, parameters), []).append((_size(parameters), record["wall_seconds"]))
    return {run.folder: _seconds(_size(run.parameters), known.get(_kind(run.notebook, run.parameters), []))
            for run in runs}


def overview(sweep, runs, missing, seconds, num_workers, num_threads):
    """A sentence on what there is to do."""
    text = f"{sweep.title} ({sweep.name}): {len(runs)} runs, {len(runs) - len(missing)} done already."
    if not missing:
        return text
    known = [value for run in missing if (value := seconds[run.folder]) is not None]
    text += f" {len(missing)} to do, {num_workers} at once with {num_threads} threads each"
    if not known:
        return f"{text}; how long they take is not known yet, since none of their kind is complete."
    text += f": about {duration(_together(missing, seconds, sum(known) / len(known), num_workers))}"
    if len(known) < len(missing):
        text += f" (guessed for {len(missing) - len(known)}, since none of their kind is complete)"
    return f"{text}."


def summarise(runs, rows):
    """A DataFrame with a row for each run: status, seconds of this execution, wall_seconds of the run, error, ..."""
    table = []
    for run in runs:
        row = {"step": run.step, "name": run.name, "notebook": run.notebook, "folder": str(run.folder),
               **run.varied, **rows[run.folder]}
        if row["status"] == "done":
            record = read_json(run.folder / "run.json")
            row |= {"commit": record.get("commit"), "wall_seconds": record.get("wall_seconds")}
        elif row["status"] == "waits":
            row["error"] = f"waits for {next(other.name for other in runs if other.folder == run.needs)}"
        table.append(row)
    table = pd.DataFrame(table)
    varied = [name for name in table.columns if name not in COLUMNS]
    return table.reindex(columns=[*COLUMNS[:4], *varied, *COLUMNS[4:]])


def write_summary(folder, runs, rows):
    """Writes the summary to <folder>/summary.csv; returns it."""
    summary = summarise(runs, rows)
    write_table(folder / "summary.csv", summary)
    return summary


def duration(seconds):
    """Such as 40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Board:
    """The one bar of a sweep: runs done, those under way, time left; and the words when it is over."""

    def __init__(self, runs, missing, seconds, num_workers):
        self.runs, self.left, self.estimates = runs, {run.name: run for run in missing}, dict(seconds)
        self.num_workers, self.started, self.measured = num_workers, {}, {}
        self.num_done = len(runs) - len(missing)
        self.bar = None

    def __enter__(self):
        import sys

        from tqdm import tqdm

        seconds = 1.0 if sys.stderr.isatty() else 30.0  # a log file gets a line now and then
        self.bar = tqdm(total=len(self.runs), initial=self.num_done, mininterval=seconds, dynamic_ncols=True,
                        bar_format="{l_bar}{bar:20}| {n_fmt}/{total_fmt} runs [{elapsed}{postfix}]")
        self._interval, self._shown = seconds, 0.0
        return self

    def __exit__(self, *error):
        self.bar.close()

    def begin(self, name):
        """A worker began this run."""
        if name in self.left:
            self.started[name] = time.time()

    def end(self, run, row):
        """A run is finished, with this row of the summary."""
        self.left.pop(run.name, None)
        self.started.pop(run.name, None)
        if row["status"] == "done":
            self.num_done += 1
            self.measured.setdefault(_kind(run.notebook, run.parameters), []).append(
                (_size(run.parameters), row["seconds"]))
            for other in self.left.values():
                self.estimates[other.folder] = _seconds(
                    _size(other.parameters), self.measured.get(_kind(other.notebook, other.parameters), [])
                ) or self.estimates[other.folder]
        elif row["status"] == "failed":
            where = f" (cell {row['cell']})" if row.get("cell") is not None else ""
            self.bar.write(f"failed: {run.name}{where}: {row['error']}")
        self.bar.update()
        self.refresh()

    def refresh(self):
        """Shows who is under way and what time is left."""
        if time.time() - self._shown < self._interval:
            return
        self._shown = time.time()
        names = list(self.started)
        text = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        left = self._seconds_left()
        parts = [f"about {duration(left)} left" if left else "", text and f"now: {text}"]
        self.bar.set_postfix_str("; ".join(filter(None, parts)), refresh=False)
        self.bar.refresh()

    def report(self, summary, seconds, place):
        """Prints how the sweep ended."""
        counts = summary["status"].value_counts()
        print(", ".join(f"{count} {status}" for status, count in counts.items())
              + f" of {len(summary)} runs. Summary: {place}")
        spent = summary["seconds"].sum()
        if spent > 0:
            print(f"{duration(spent)} of runs in {duration(seconds)}, {self.num_workers} at once: "
                  f"{spent / seconds / self.num_workers:.0%} of the workers' time.")
        for row in summary[summary["status"] == "failed"].astype(object).to_dict("records"):
            where = "" if pd.isna(row["cell"]) else f" (cell {row['cell']:.0f})"
            print(f"failed: {row['name']}{where}: {row['error']}")
            if isinstance(row["executed"], str) and row["executed"]:
                print(f"  {row['executed']}")
        commits = summary["commit"].dropna().unique()
        if len(commits) > 1:
            print(f"The complete runs were made with {len(commits)} versions of the code: {', '.join(commits)}.")
        if (summary["status"] != "done").any():
            print("Run the same command again to do what is missing or failed.")

    def _seconds_left(self):
        """Learnt from what is known; None as long as nothing is."""
        known = [value for name in self.left if (value := self.estimates[self.left[name].folder]) is not None]
        if not known:
            return None
        mean, now = sum(known) / len(known), time.time()
        left = sum(max(0.0, (self.estimates[run.folder] or mean) - (now - self.started.get(name, now)))
                   for name, run in self.left.items())
        return left / self.num_workers


def _together(missing, seconds, mean, num_workers):
    """Seconds that the runs take, several at once; no less than a run and those that it needs, one after another."""
    chains = {}
    for run in missing:  # each after the one it needs
        own = mean if seconds[run.folder] is None else seconds[run.folder]
        chains[run.folder] = own + chains.get(run.needs, 0.0)
    total = sum(chains[run.folder] - chains.get(run.needs, 0.0) for run in missing)
    return max(total / num_workers, *chains.values())


def _kind(notebook, parameters):
    names = _KIND if "num_train_iterations" in parameters else _KIND + _JUDGED
    return (notebook, *(parameters.get(name) for name in names))


def _size(parameters):
    size = 1.0
    for name in _SIZE:
        size *= parameters.get(name, 1)
    return size * (parameters.get("num_support", 0) + parameters.get("num_query", 1))


def _seconds(size, known):
    """Seconds for a size, from [(size, seconds)]: those of the nearest, in proportion but not below five seconds."""
    if not known:
        return None
    nearest = min(abs(size / other - 1) for other, _ in known)
    near = [seconds * size / other for other, seconds in known if abs(size / other - 1) <= nearest * 1.001 + 1e-9]
    return max(5.0, sorted(near)[len(near) // 2])
