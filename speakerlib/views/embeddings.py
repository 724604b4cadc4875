"""Maps of embeddings: one point a segment, one colour and marker a speaker."""

import numpy as np

from speakerlib.views.style import new_figure, speaker_looks

METHODS = ("tsne", "pca")


def embedding_map(embeddings, speakers, method="tsne", seed=0, title=None, axis=None):
    """Draws embeddings (n, dim) in the plane; speakers: n names. Returns the figure.

    tsne keeps neighbours together and distorts distances; pca is the plain projection on the two directions of
    largest spread. Both are the same for the same seed. Speakers look as everywhere (see speaker_looks).
    """
    embeddings, speakers = np.asarray(embeddings, dtype=np.float64), np.asarray(speakers)
    if embeddings.ndim != 2 or len(embeddings) != len(speakers):
        raise ValueError(f"embeddings of shape {embeddings.shape} with {len(speakers)} speaker names: "
                         "expected (n, dim) and n names.")
    points = project(embeddings, method, seed)
    if axis is None:
        figure, axis = new_figure(8.2, 6)
    looks = speaker_looks(speakers)
    for speaker, (colour, marker) in sorted(looks.items()):
        x, y = points[speakers == speaker].T
        axis.scatter(x, y, s=30, color=colour, marker=marker, alpha=0.85, linewidths=0, label=speaker)
    names = {"tsne": "t-SNE", "pca": "PCA"}
    axis.set(xticks=[], yticks=[], title=title or f"{len(looks)} speakers, {len(points)} segments ({names[method]})")
    axis.spines[:].set_visible(True)
    axis.legend(title="speaker", loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + (len(looks) - 1) // 20,
                handletextpad=0.2)
    return axis.figure


def project(embeddings, method="tsne", seed=0):
    """Coordinates (n, 2) of embeddings (n, dim)."""
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}.")
    if len(embeddings) < 4:
        raise ValueError(f"{len(embeddings)} embeddings: a map needs at least 4.")
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(embeddings) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings)
    centred = embeddings - embeddings.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2] * np.sign(directions[:2, np.abs(directions[:2]).argmax(axis=1)].diagonal())[:, None]
    return centred @ directions.T
