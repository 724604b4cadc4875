"""Who is speaking? People are enrolled from a few clips; then a clip is one of them, or unknown, with a probability."""

import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from speakerlib.data.audio import SAMPLE_RATE, to_int16
from speakerlib.data.given_clips import list_of_clips, name_of_clip, read_clip
from speakerlib.experiments.calibration import UNKNOWN, cosines, is_known, posteriors
from speakerlib.experiments.timeline import SILENCE, cells, merge, smooth_scores, sounding
from speakerlib.experiments.voice_embedding import embed_waveforms, embed_windows
from speakerlib.experiments.voice_weights import read_voice_weights
from speakerlib.people_files import check_person, read_people, write_people

FALSE_ACCEPTANCE = 0.05  # how often a stranger is taken for somebody who is enrolled
CLIPS = ("clip", "seconds", "used", "reason")


@dataclass(frozen=True)
class Identification:
    """The answer to one clip: name (of a person, or "unknown"), its probability, and all candidates.

    table: a row a candidate, the likeliest first: name, probability, score (the cosine; NaN for
    unknown). An answer is "unknown" where the best score is below a threshold that strangers exceed at the rate
    false_acceptance: see calibration.is_known. Weights without a calibration have probabilities NaN and know everybody.
    """

    name: str
    probability: float
    table: pd.DataFrame = field(repr=False)
    seconds: float = field(repr=False)
    false_acceptance: float | None = field(repr=False)

    def _repr_html_(self):
        return self.table.style.format({"probability": "{:.1%}", "score": "{:.2f}"}, na_rep="").hide().to_html()


class SpeakerIdentifier:
    """People known by their voices. Made by `load`; `weights` tells of the encoder (see VoiceWeights).

    clips: a row an enrolled clip: name, source (a file's name, or ""), seconds, in the order of `embeddings`, (clips,
    dim) of unit length. `audio`: the clips' samples, int16 at 16 kHz, None where only an embedding was loaded.
    """

    def __init__(self, weights):
        self.weights = weights
        self.clips = pd.DataFrame({"name": pd.Series(dtype=str), "source": pd.Series(dtype=str),
                                   "seconds": pd.Series(dtype=float)})
        self.embeddings = np.zeros((0, weights.encoder.dim), np.float32)
        self.audio = []

    @classmethod
    def load(cls, weights=None, people=None):
        """With the model that ships, or a weights file or run of chapter 10; people: a file that `save` wrote."""
        self = cls(read_voice_weights(weights))
        if self.weights.calibration is None:
            warnings.warn(f"{self.weights.path} has no calibration: there will be no probabilities, and nobody will be "
                          "unknown. See speakerlib.experiments.open_set_errors.calibrate.", stacklevel=2)
        if people is not None:
            self.load_people(people)
        return self

    @property
    def names(self):
        """The people who are enrolled, in the order of their enrolment."""
        return list(dict.fromkeys(self.clips["name"]))

    def __repr__(self):
        return f"SpeakerIdentifier({len(self.names)} people, {len(self.clips)} clips, {self.weights.path.name})"

    def embed(self, clips, sample_rate=SAMPLE_RATE):
        """float32 (clips, dim) of unit length, of a list of paths or arrays: see given_clips.read_clip.

        Clips of one length go through the network together; each embedding is that of the clip alone.
        """
        clips = list_of_clips(clips)
        return self._embed([read_clip(clip, sample_rate, name_of_clip(clip, number, len(clips)))
                            for number, clip in enumerate(clips)])

    def enrol(self, name, clips, sample_rate=SAMPLE_RATE, replace=False, add=False):
        """Makes a person known from a list of paths or arrays. Returns a table: clip, seconds, used, reason.

        Clips that cannot be used are left out with a warning. replace: in place of what was enrolled under this name;
        add: beside it. Raises ValueError if the name is taken (unless replace or add) or cannot be one, if there is no
        clip, or if none can be used.
        """
        name = check_person(name)
        if replace and add:
            raise ValueError(f"{name!r}: replace and add exclude each other; give one of them.")
        if name in self.names and not replace and not add:
            raise ValueError(f"{name!r} is enrolled already, with {int((self.clips['name'] == name).sum())} clips. Use "
                             "replace=True to enrol anew, add=True to add clips, or another name.")
        clips = list_of_clips(clips)
        rows, waveforms = [], []
        for number, clip in enumerate(clips):
            called = name_of_clip(clip, number, len(clips))
            try:
                waveforms.append(read_clip(clip, sample_rate, called))
                rows.append((called, len(waveforms[-1]) / SAMPLE_RATE, True, ""))
            except (ValueError, OSError) as error:
                rows.append((called, np.nan, False, str(error)))
        table = pd.DataFrame(rows, columns=CLIPS)
        left_out = table.loc[~table["used"], "reason"].tolist()
        if not waveforms:
            raise ValueError(f"{name!r} is not enrolled: none of {len(clips)} clips can be used. {'; '.join(left_out)}")
        if left_out:
            warnings.warn(f"{name!r}: {len(left_out)} of {len(clips)} clips left out: {'; '.join(left_out)}",
                          stacklevel=2)
        embeddings = self._embed(waveforms)
        if replace:
            self.forget(name, missing_ok=True)
        used = table[table["used"]]
        sources = [called.replace("\\", "/").split("/")[-1] if isinstance(clips[row], str) or hasattr(
            clips[row], "__fspath__") else "" for row, called in zip(used.index, used["clip"])]
        self._append([name] * len(used), sources, used["seconds"].tolist(), embeddings,
                     [to_int16(waveform) for waveform in waveforms])
        return table

    def forget(self, name, missing_ok=False):
        """Takes a person out. ValueError if nobody is enrolled under the name."""
        if name not in self.names and not missing_ok:
            raise ValueError(f"{name!r} is not enrolled; {self._known()}")
        kept = (self.clips["name"] != name).to_numpy()
        self.audio = [samples for samples, keep in zip(self.audio, kept) if keep]
        self.clips, self.embeddings = self.clips[kept].reset_index(drop=True), self.embeddings[kept]

    def identify(self, clip, sample_rate=SAMPLE_RATE, false_acceptance=FALSE_ACCEPTANCE):
        """The Identification of a path or an array: a person who is enrolled, or "unknown".

        false_acceptance: the rate at which a stranger may be taken for somebody; one of the calibration's. Raises
        ValueError if nobody is enrolled, and what read_clip raises.
        """
        self._require_people()
        waveform = read_clip(clip, sample_rate, name_of_clip(clip, 0, 1))
        seconds = len(waveform) / SAMPLE_RATE
        scores = self.scores(self._embed([waveform]))
        probabilities, known = self._judge(scores, seconds, false_acceptance)
        table = pd.DataFrame({"name": [*self.names, UNKNOWN], "probability": probabilities[0],
                              "score": [*scores[0], np.nan]})
        best = int(scores[0].argmax()) if known[0] else len(self.names)
        likely = np.append(scores[0], -np.inf) if self.weights.calibration is None else probabilities[0]
        return Identification(table["name"][best], float(table["probability"][best]),
                              table.iloc[np.argsort(-likely, kind="stable")].reset_index(drop=True), seconds,
                              false_acceptance if self.weights.calibration else None)

    def scores(self, embeddings):
        """Cosines of embeddings (queries, dim) with the mean of each person's: float64 (queries, people)."""
        self._require_people()
        owner, names = self.clips["name"].to_numpy(), self.names
        people = np.stack([self.embeddings[owner == name].mean(axis=0, dtype=np.float64) for name in names])
        return cosines(embeddings, people)

    def timeline(self, clip, window=1.5, hop=0.5, sample_rate=SAMPLE_RATE, false_acceptance=FALSE_ACCEPTANCE,
                 merged=True):
        """Who speaks when: a table of start, end (seconds), name (of a person, "unknown" or "silence"), probability.

        A window of `window` seconds slides by `hop`; a moment's scores are the mean over the windows that hold it,
        weighed by how much of them sounds. Silence is far below the loudest of the file. merged: one row for as long as
        one name lasts, with its mean probability; else one row a hop. Raises what identify raises, and ValueError for a
        window or hop that is too short.
        """
        self._require_people()
        if not 0.5 <= window <= 30 or not 0.05 <= hop <= window:
            raise ValueError(f"window={window!r} and hop={hop!r}: expected 0.5 to 30 s, and a hop of 0.05 s up to the "
                             "window.")
        waveform = read_clip(clip, sample_rate, name_of_clip(clip, 0, 1))
        front = self.weights.front_end
        per_second = front.sample_rate / front.hop_length
        lengths = [max(1, round(seconds * per_second)) for seconds in (window, hop)]
        starts, embeddings = embed_windows(self.weights.encoder, front, waveform, 1 + lengths[0], lengths[1])
        loud = sounding(waveform, front.hop_length)
        edges = cells(len(loud), lengths[1])
        scores, heard = smooth_scores(self.scores(embeddings), starts, lengths[0], loud, edges)
        probabilities, known = self._judge(scores, window, false_acceptance)
        choice = np.where(known, scores.argmax(axis=1), len(self.names))
        names = np.array([*self.names, UNKNOWN, SILENCE], dtype=object)
        return merge(edges / per_second, np.where(heard, choice, len(self.names) + 1), probabilities, names,
                     len(waveform) / SAMPLE_RATE, merged)

    def save(self, path, keep_audio=False):
        """Writes who is enrolled to a .safetensors file, or people.safetensors in a folder. Returns its path.

        Embeddings and names alone; keep_audio: their clips as FLAC too, in a folder beside it. See people_files.
        """
        self._require_people()
        return write_people(path, self.clips, self.embeddings, self.audio if keep_audio else None, self.weights.digest)

    def load_people(self, path, replace=False):
        """Enrols the people of a file that `save` wrote, with their audio if it was kept.

        Raises FileNotFoundError if there is none; ValueError if it is no such file, was written with other weights, or
        has a name that is enrolled here already (unless replace).
        """
        clips, embeddings, audio = read_people(path, self.weights.digest, self.weights.encoder.dim)
        twice = sorted(set(clips["name"]) & set(self.names))
        if twice and not replace:
            raise ValueError(f"{path} has {', '.join(map(repr, twice))}, enrolled here already. Use replace=True to "
                             "take the file's, or forget(name) first.")
        for name in twice:
            self.forget(name)
        self._append(clips["name"].tolist(), clips["source"].tolist(), clips["seconds"].tolist(), embeddings, audio)

    def _embed(self, waveforms):
        return embed_waveforms(self.weights.encoder, self.weights.front_end, waveforms)

    def _judge(self, scores, seconds, false_acceptance):
        """(probabilities (n, people + 1), known (n,)); NaN and True without a calibration."""
        calibration = self.weights.calibration
        if calibration is None:
            return np.full((len(scores), scores.shape[1] + 1), np.nan), np.ones(len(scores), bool)
        return (posteriors(scores, seconds, calibration),
                is_known(scores, seconds, calibration, false_acceptance))

    def _append(self, names, sources, seconds, embeddings, audio):
        more = pd.DataFrame({"name": names, "source": sources, "seconds": seconds})
        self.clips = pd.concat([self.clips, more], ignore_index=True) if len(self.clips) else more
        self.embeddings = np.concatenate([self.embeddings, embeddings])
        self.audio = [*self.audio, *audio]

    def _require_people(self):
        if not len(self.clips):
            raise ValueError('nobody is enrolled: enrol("a name", ["clip.wav", ...]) first, or load people.')

    def _known(self):
        return f"enrolled are {', '.join(map(repr, self.names))}." if self.names else "nobody is."
