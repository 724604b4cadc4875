"""From rates measured on a little speech to hours and bytes of VoxCeleb1 and VoxCeleb2: a page of arithmetic."""

from speakerlib.data.files import atomic_path

# As published: Nagrani et al. 2017; Chung et al. 2018 (development and test sets together).
CORPORA = {"VoxCeleb1": {"speakers": 1251, "utterances": 153_516, "hours": 352, "suffix": "wav"},
           "VoxCeleb2": {"speakers": 6112, "utterances": 1_128_246, "hours": 2442, "suffix": "m4a"}}
BYTES_A_SECOND = 2 * 16_000  # of a waveform store: int16 at 16 kHz
CLIPS = {"compact": {"seconds": 1.5, "bytes": 64 * 151 * 2, "what": "64 mels x 151 frames x 2 bytes"},
         "boccio": {"seconds": 3.0, "bytes": 256 * 301, "what": "256 mels x 301 frames x 1 byte"}}
CONDITIONS = ("recorded", "changed, family I", "changed, family II")
MANY = 16  # cores of the column that nothing was measured for


def estimate(corpus, rates):
    """{step: {"speech": hours that it goes through, "core_hours", "two": hours on two workers, "many", "gigabytes"}}.

    corpus: one of CORPORA's values; rates: of each step, real_time (seconds of speech a second on one worker),
    two_workers (the same on two) and efficiency. many: hours on MANY cores, would the efficiency stay the same.
    """
    steps = {f"waveform store, from {corpus['suffix']}": (corpus["hours"], 3600 * corpus["hours"] * BYTES_A_SECOND)}
    for name, clip in CLIPS.items():
        number = num_clips(corpus, clip["seconds"])
        for condition in CONDITIONS:
            steps[f"{name}, {condition}"] = (number * clip["seconds"] / 3600, number * clip["bytes"])
    return {step: {"speech": hours, "core_hours": hours / rates[step]["real_time"],
                   "two": hours / rates[step]["two_workers"], "gigabytes": size / 1e9,
                   "many": hours / rates[step]["real_time"] / MANY / rates[step]["efficiency"]}
            for step, (hours, size) in steps.items()}


def num_clips(corpus, seconds):
    """Whole segments: what an utterance has beyond its last one is half a segment on the average, and is left out."""
    return round(3600 * corpus["hours"] / seconds - corpus["utterances"] / 2)


def write_page(path, rates, machine, speech):
    """Writes the page. machine: where the rates were measured; speech: on what."""
    with atomic_path(path) as temporary:
        temporary.write_text(page(rates, machine, speech), encoding="utf-8")


def page(rates, machine, speech):
    """The page's text."""
    parts = [f"""# VoxCeleb2 on this computer: an extrapolation

Nothing here was run on VoxCeleb. `python tests/benchmarks/extraction.py` measured how fast speech becomes a waveform
store and features on one worker and on two, and wrote this page: those rates, times the counts that the corpora's
authors published. Measured on {speech}. {machine}

**Not measured, and not in the numbers:** downloads and unpacking; disks slower than memory and network file systems
(every step here read files that were in memory); the lengths of VoxCeleb's own utterances (8 s on the average, longer
than those measured, so that each file's own cost weighs less there); its original m4a files (these were encoded for
the purpose, at the encoder's default rate); more than two workers. The column for {MANY} cores divides the core-hours
by {MANY} and by the efficiency found for two.
"""]
    parts += [_corpus(name, corpus, rates) for name, corpus in CORPORA.items()]
    return "\n".join(parts)


def _corpus(name, corpus, rates):
    found = estimate(corpus, rates)
    lines = [f"## {name}", "", f"{corpus['speakers']:,} speakers, {corpus['utterances']:,} utterances, "
             f"{corpus['hours']:,} hours as {corpus['suffix']}.", "",
             f"| step | core-hours | hours on 2 workers | hours on {MANY} cores, if it goes on so | GB |",
             "| --- | ---: | ---: | ---: | ---: |"]
    columns = {"core_hours": ".2f", "two": ".2f", "many": ".2f", "gigabytes": ",.1f"}
    for step, row in found.items():
        lines.append(f"| {step} | " + " | ".join(f"{row[name]:{form}}" for name, form in columns.items()) + " |")
    for front_end in CLIPS:
        chosen = [row for step, row in found.items()
                  if step.startswith(("waveform", front_end)) and not step.endswith("II")]
        sums = [f"**{sum(row[name] for row in chosen):{form}}**" for name, form in columns.items()]
        lines.append(f"| **store and {front_end}, recorded and changed (I)** | {' | '.join(sums)} |")
    lines += ["", "Line by line:", "",
              f"- Waveform store: {corpus['hours']:,} h x 3,600 s x 16,000 samples x 2 bytes = "
              f"{found['waveform store, from ' + corpus['suffix']]['gigabytes']:,.1f} GB."]
    for front_end, clip in CLIPS.items():
        number = num_clips(corpus, clip["seconds"])
        lines.append(f"- Clips of {front_end}: {corpus['hours']:,} h x 3,600 s / {clip['seconds']:g} s - "
                     f"{corpus['utterances']:,} utterances x half a clip that is left out at the end = {number:,}; "
                     f"x {clip['what']} = {clip['bytes']:,} bytes a clip: {number * clip['bytes'] / 1e9:,.1f} GB a "
                     f"condition; x {clip['seconds']:g} s = {number * clip['seconds'] / 3600:,.0f} h of speech.")
    for step, row in found.items():
        rate = rates[step]
        lines.append(f"- {step[0].upper()}{step[1:]}: {row['speech']:,.0f} h / {rate['real_time']:,.0f} times real "
                     f"time on one worker = {row['core_hours']:.2f} core-hours; / {rate['two_workers']:,.0f} on two = "
                     f"{row['two']:.2f} h (efficiency {rate['efficiency']:.0%}).")
    return "\n".join([*lines, ""])
