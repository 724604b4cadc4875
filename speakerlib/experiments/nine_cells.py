"""Chapter 05: an encoder in the 3/5/10-way x 1/5/10-shot table, on test speakers, in both conditions."""

from speakerlib.data.features import CONDITIONS
from speakerlib.experiments.evaluation import (
    accuracy_by_speaker,
    embed,
    episode_accuracy,
    inner_products,
    interval_as_published,
    transductive_accuracy,
    with_intervals,
)
from speakerlib.experiments.protonet import TEST

NINE_CELLS = tuple((num_way, num_support) for num_support in (1, 5, 10) for num_way in (3, 5, 10))
PAIRED_WAY = 5  # of these cells the record keeps each speaker's accuracy, so that runs are compared from records alone
TRANSDUCTIVE_TASKS = 100  # as_published needs a forward pass a task


def nine_cells(experiment, encoder, run, progress=True):
    """The network in all nine cells of the table, in both conditions. Returns a list of rows (dicts).

    `corrected`: test_tasks tasks a cell from cached embeddings; `as_published`: transductive BatchNorm and fewer
    tasks. A cell that the test split cannot fill has accuracy None and the reason.
    """
    from tqdm.auto import tqdm

    if run.is_complete:
        return run.record["result"]
    rows, drawn = [], {}
    with tqdm(total=len(CONDITIONS) * len(NINE_CELLS), desc="test cells", disable=not progress) as bar:
        for condition in CONDITIONS:
            features = experiment.features(condition)
            accuracy_of = accuracy_on(experiment, encoder, features)
            for num_way, num_support in NINE_CELLS:
                row = _cell(experiment, num_way, num_support, accuracy_of, drawn)
                rows.append({"condition": condition, "channel_family": features.channel_family, **row})
                bar.update()
    return rows


def embeddings_for_map(experiment, encoder, condition, num_speakers=20, segments_per_speaker=15):
    """Embeddings of some segments of the first test speakers: ((n, dim) array, speaker of each)."""
    features = experiment.features(condition)
    test = features.segments[features.segments["split"] == "test"]
    test = test[test["speaker"].isin(sorted(test["speaker"].unique())[:num_speakers])]
    chosen = test.groupby("speaker", observed=True).head(segments_per_speaker)
    return embed(encoder, features, chosen.index.to_numpy()).numpy(), chosen["speaker"].to_numpy()


def accuracy_on(experiment, encoder, features):
    """A function of episodes that gives an encoder's (tasks, way) accuracy on the test speakers."""
    if experiment.settings.protocol == "as_published":
        return lambda episodes: transductive_accuracy(encoder, features, episodes)
    ids = features.segments.index[features.segments["split"] == "test"].to_numpy()
    embeddings = embed(encoder, features, ids)
    products = inner_products(embeddings)
    return lambda episodes: episode_accuracy(embeddings, ids, episodes, products=products)


def episodes_of_cell(experiment, num_way, num_support):
    """The tasks of a cell of the table, the same for every encoder, and how many speakers may play in them.

    ValueError if the test split cannot fill them.
    """
    sampler = experiment.sampler("test", num_way, num_support, TEST)
    most = TRANSDUCTIVE_TASKS if experiment.settings.protocol == "as_published" else experiment.settings.test_tasks
    return sampler.draw(0, min(experiment.settings.test_tasks, most)), len(sampler.speakers)


def _cell(experiment, num_way, num_support, accuracy_of, drawn):
    """A row of the table; drawn: a dict of the episodes drawn for the conditions before, which this one meets too."""
    row = {
        "num_way": num_way,
        "num_support": num_support,
        "episode_rule": experiment.rule,
        "accuracy": None,
        **dict.fromkeys(("interval", "low", "high", "tasks", "speakers", "interval_as_published", "reason")),
    }
    try:
        if (num_way, num_support) not in drawn:
            drawn[num_way, num_support] = episodes_of_cell(experiment, num_way, num_support)
        episodes, num_speakers = drawn[num_way, num_support]
    except ValueError as error:
        return {**row, "reason": str(error)}
    accuracy = accuracy_of(episodes)
    return {
        **row,
        **with_intervals(accuracy, episodes.speakers),
        "tasks": len(accuracy),
        "speakers": num_speakers,
        "episodes": episodes.digest(),
        "interval_as_published": interval_as_published(accuracy, experiment.settings.batch_size),
        **({"by_speaker": accuracy_by_speaker(accuracy, episodes.speakers)} if num_way == PAIRED_WAY else {}),
    }
