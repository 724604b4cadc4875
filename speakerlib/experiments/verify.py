"""Chapter 07: one trained encoder in verification and identification of test speakers, scored in three ways."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from speakerlib.data.clips import take_clips, whole_clips
from speakerlib.data.corpora import find_corpus
from speakerlib.data.drawn_trials import cut_tests, draw_trials, save_trials, trial_clips
from speakerlib.data.episodes import default_rule
from speakerlib.data.features import CONDITIONS
from speakerlib.data.identification_tasks import draw_identification
from speakerlib.data.trials import match_trials, read_trials
from speakerlib.data.utterance_features import prepare_utterance_features, utterance_front_end, utterance_table
from speakerlib.experiments.checkpoints import save_weights
from speakerlib.experiments.evaluation import accuracy_by_speaker, with_intervals
from speakerlib.experiments.query_lengths import QUERY_LENGTHS
from speakerlib.experiments.scoring import SCORINGS, embed_clips, identify, score_trials, speaker_means
from speakerlib.experiments.speaker_encoders import read_speaker_encoder
from speakerlib.experiments.verification import errors_with_intervals, verification_errors

NOTEBOOK = "07_verification_and_identification"
DRAWN = "drawn"  # the value of `trials` that draws a list; any other is the file of a published one
TRIAL_LENGTHS = (None, 200, 100)  # frames of the test side; None: all of it
COHORT_SPEAKERS, COHORT_UTTERANCES = 400, 5  # training speakers, and utterances of each, behind centred and s-norm
NEAREST = 20  # of the cohort that count in s-norm
_COHORT, _CUTS = 0, 1  # each is drawn apart
_TASKS = 2  # as chapter 06 draws what it tests with: with the same settings they are the same tasks


@dataclass(frozen=True)
class Evaluation:
    """The settings of notebook 07, the data they name, and the encoder that is judged (facts: what it is)."""

    settings: object
    corpus: object
    encoder: object
    facts: dict

    @cached_property
    def utterances(self):
        """The table of utterances; it needs no features."""
        return utterance_table(self.corpus, utterance_front_end(self.facts["front_end"]))

    @property
    def frames(self):
        """Length of each utterance of the corpus."""
        return self.utterances["frames"].to_numpy()

    @cached_property
    def test(self):
        """The corpus' rows of test speakers."""
        return self.corpus.table[self.corpus.table["split"] == "test"]

    @cached_property
    def rule(self):
        """What enrolment and test never share: the strictest that the corpus allows."""
        return default_rule(self.corpus.table)

    def features(self, condition):
        """The frames of all utterances, made if they are not there."""
        return prepare_utterance_features(self.corpus, self.facts["front_end"], condition,
                                          channel_family=self.settings.channel_family)

    @cached_property
    def trials(self):
        """{test length: trials}: one list, its test side whole or cut."""
        settings = self.settings
        if settings.trials == DRAWN:
            whole = draw_trials(self.test, settings.trials_per_speaker, self.rule, settings.seed)
        else:
            whole = match_trials(read_trials(settings.trials), self.corpus)
        return {length: whole if length is None else cut_tests(whole, self.frames, length,
                                                               (settings.seed, _CUTS, length))
                for length in TRIAL_LENGTHS}

    @cached_property
    def tasks(self):
        """{test length: IdentificationTasks}: the same enrolments and tasks for every length of the queries."""
        settings = self.settings
        try:
            return {length: draw_identification(
                self.test, self.frames, settings.nb_class_test, settings.test_tasks, settings.num_support,
                settings.num_query, settings.enroll_length, length, self.rule, 3 * settings.seed + _TASKS,
                num_enrolments=4, num_cuts=1) for length in QUERY_LENGTHS}
        except ValueError as error:
            raise ValueError(f"corpus {self.corpus.name!r}, split 'test': {error} num_way is nb_class_test here."
                             ) from None

    @cached_property
    def cohort(self):
        """Rows of training speakers whose mean embeddings scores are compared with; so many of them at most."""
        train = self.corpus.table[self.corpus.table["split"] == "train"]
        shuffled = train.sample(frac=1, random_state=np.random.default_rng((self.settings.seed, _COHORT)))
        speakers = shuffled["speaker"].unique()[:COHORT_SPEAKERS]
        return shuffled[shuffled["speaker"].isin(speakers)].groupby("speaker").head(COHORT_UTTERANCES).sort_index()


def open_evaluation(settings):
    """Corpus, encoder, trials and tasks: what can be refused is refused here, before features are made."""
    corpus = find_corpus(settings.corpus)
    evaluation = Evaluation(settings, corpus, *read_speaker_encoder(settings.init, corpus, settings.seed))
    if evaluation.cohort["speaker"].nunique() < 2:
        raise ValueError(f"corpus {corpus.name!r}, split 'train', has {evaluation.cohort['speaker'].nunique()} "
                         "speakers; centred scores and s-norm need 2 or more. Import it with another split.")
    evaluation.tasks[QUERY_LENGTHS[0]]
    sides = evaluation.trials[None][["enrolment_row", "test_row"]].to_numpy()
    known = set(corpus.table["speaker"].to_numpy()[np.unique(sides)])
    seen = known & set(evaluation.corpus.table.loc[evaluation.corpus.table["split"] == "train", "speaker"])
    if seen:
        print(f"{len(seen)} of {len(known)} speakers of the trials are in split 'train' of {corpus.name!r}, such as "
              f"{min(seen)}: errors are too low if the encoder was trained on them.")
    return evaluation


def save_trial_lists(evaluation, folder):
    """Writes trials_whole.csv and one file for each length of the test side; returns {file name: digest}."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    names = {length: f"trials_{length_name(length)}.csv" for length in evaluation.trials}
    return {name: save_trials(evaluation.trials[length], evaluation.corpus, Path(folder) / name)
            for length, name in names.items()}


def print_repeats(evaluation):
    """Prints, of each length that tests are cut to, how many are of a shorter utterance and so repeat it."""
    for length, trials in evaluation.trials.items():
        if length is not None:
            short = int((evaluation.frames[trials["test_row"]] < length).sum())
            print(f"cut to {length / 100:g} s: {short or 'none'} of {len(trials)} tests {'are' if short > 1 else 'is'} "
                  "of an utterance shorter than that" + (", which is repeated to fill it" if short else ""))


def length_name(length):
    """`whole`, or seconds such as `2s`."""
    return "whole" if length is None else f"{length / 100:g}s"


def evaluate(evaluation, run, progress=True):
    """Both tasks in both conditions, by the length of what is tested, under every scoring: a list of rows (dicts).

    task `verification`: eer, min_dcf_0.01 and min_dcf_0.001, each with _low and _high, the 95 % interval over
    speakers, and by_speaker: the share of each enrolled speaker's trials that is decided rightly at the threshold of
    equal errors, both kinds of trials counting alike. task `identification`: as the rows of chapter 06. Rows of the
    same trial_list, or the same episodes, may be compared. Leaves the trial lists and scores.safetensors in the run's
    folder, a score a trial for each condition, length and scoring: see read_scores.
    """
    from tqdm.auto import tqdm

    if run.is_complete:
        return run.record["result"]
    digests, rows, scores = save_trial_lists(evaluation, run.folder), [], {}
    run.write(trial_lists=digests, speaker_encoder=evaluation.facts)
    encoder = evaluation.encoder.to("cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last)
    steps = len(CONDITIONS) * (len(TRIAL_LENGTHS) + len(QUERY_LENGTHS))
    with tqdm(total=steps, desc="evaluating", disable=not progress) as bar:
        for condition in CONDITIONS:
            features = evaluation.features(condition)
            shared = {"condition": condition, "channel_family": features.channel_family,
                      "episode_rule": evaluation.rule}
            cohort = speaker_means(_embed_whole(encoder, features, evaluation.cohort.index),
                                   evaluation.cohort["speaker"])
            for length, found in score_lengths(encoder, features, evaluation.trials, cohort):
                for scoring, values in found.items():
                    rows.append({"task": "verification", **shared,
                                 **_verification_row(evaluation, length, scoring, values, digests)})
                    scores[f"{condition}/{length_name(length)}/{scoring}"] = torch.from_numpy(values)
                bar.update()
            for row in _identification_rows(evaluation, encoder, features, cohort, bar):
                rows.append({"task": "identification", **shared, **row})
    save_weights(scores, run.folder / "scores.safetensors")
    return rows


def read_scores(folder, condition, length, scoring):
    """(scores, labels) of a complete run, float64 and integers (trials,); length: frames of the tests, or None."""
    scores = load_file(Path(folder) / "scores.safetensors")
    labels = pd.read_csv(Path(folder) / f"trials_{length_name(length)}.csv")["label"]
    return scores[f"{condition}/{length_name(length)}/{scoring}"].numpy(), labels.to_numpy()


def score_lengths(encoder, features, trials, cohort):
    """Yields (test length, {scoring: float64 (trials,)}) of lists that differ in how the test side is cut.

    trials: {test length: list}; cohort: (speakers, dim). Each utterance is embedded whole only once.
    """
    whole = next(iter(trials.values()))
    rows = np.unique(whole[["enrolment_row", "test_row"]].to_numpy())
    embedded = _embed_whole(encoder, features, rows)
    for length, each in trials.items():
        enrolled, test, enrolment_of, test_of = trial_clips(each, features.lengths)
        enrolment = embedded[np.searchsorted(rows, enrolled.first_row)]
        test = (embedded[np.searchsorted(rows, test.first_row)] if length is None else
                embed_clips(encoder, features, test, progress=False))
        yield length, {scoring: score_trials(enrolment, test, enrolment_of, test_of, scoring, cohort, _top(cohort))
                       for scoring in SCORINGS}


def rate_by_speaker(scores, trials, speakers, threshold):
    """{enrolled speaker: share of its trials decided rightly}, targets and non-targets counting alike."""
    right = (np.asarray(scores) >= threshold) == (trials["label"].to_numpy() == 1)
    kinds = trials.assign(right=right, speaker=speakers).groupby(["speaker", "label"])["right"].mean()
    return {str(name): round(float(rate), 5) for name, rate in kinds.groupby("speaker").mean().items()}


def _verification_row(evaluation, length, scoring, scores, digests):
    trials, names = evaluation.trials[length], evaluation.corpus.table["speaker"].to_numpy(str)
    labels, enrolled, tested = (trials["label"].to_numpy(), names[trials["enrolment_row"]], names[trials["test_row"]])
    facts, errors = verification_errors(scores, labels), {}
    for name, (value, low, high) in errors_with_intervals(scores, labels, enrolled, tested).items():
        errors |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return {"scoring": scoring, "test_length": length, "enroll_length": None,
            "trial_list": digests[f"trials_{length_name(length)}.csv"], **errors,
            **{name: facts[name] for name in ("threshold", "targets", "non_targets")},
            "speakers": len(np.union1d(enrolled, tested)),
            "by_speaker": rate_by_speaker(scores, trials, enrolled, facts["threshold"])}


def _identification_rows(evaluation, encoder, features, cohort, bar):
    settings, first = evaluation.settings, next(iter(evaluation.tasks.values()))
    enrolments = embed_clips(encoder, features, take_clips(first.clips, range(first.num_enrolments)), progress=False)
    for length, tasks in evaluation.tasks.items():
        queries = take_clips(tasks.clips, range(tasks.num_enrolments, len(tasks.clips)))
        embeddings = torch.cat([enrolments, embed_clips(encoder, features, queries, progress=False)])
        for scoring in SCORINGS:
            accuracy = identify(embeddings, tasks.episodes, scoring, cohort, _top(cohort))
            yield {"scoring": scoring, "test_length": length, "enroll_length": settings.enroll_length,
                   "num_way": accuracy.shape[1], "num_support": settings.num_support, "num_query": settings.num_query,
                   **with_intervals(accuracy, tasks.episodes.speakers), "tasks": len(accuracy),
                   "speakers": len(np.unique(tasks.episodes.speakers)), "episodes": tasks.digest(),
                   "by_speaker": accuracy_by_speaker(accuracy, tasks.episodes.speakers)}
        bar.update()


def _embed_whole(encoder, features, rows):
    return embed_clips(encoder, features, whole_clips(rows, features.lengths), progress=False)


def _top(cohort):
    return min(NEAREST, len(cohort))
