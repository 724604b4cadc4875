"""What a scraping job works on: a list of one's own and YouTube, or the practice list and a server on this computer."""

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from speakerlib.data.files import data_folder
from speakerlib.data.practice.lists import make_practice, practice_faults
from speakerlib.data.practice.server import serve_practice
from speakerlib.data.scraping.job import YOUTUBE, check_template, only_job
from speakerlib.data.scraping.ledger import LEDGER, read_ledger
from speakerlib.data.scraping.url_lists import read_url_lists

PRACTICE = "practice"


class Job(NamedTuple):
    """Where a job's list is, where its utterances go, and where its videos come from."""

    url_directory: Path
    output: Path
    url_template: str
    synthetic: bool


@contextmanager
def open_job(url_directory, output="auto", url_template="auto", faults=None, anew=True):
    """Yields the Job of a list of URLs; that of "practice" is served by this computer for as long as it is open.

    url_directory: a folder that holds txt/, or "practice": 18 videos of synthetic speech, of which faults (video ->
    name of a fault, or one name for all; a fixed mix by default) are gone, refused or damaged. output:
    data/scraped/<name of the list> by default; a practice that had ended there starts anew, one that was cut short
    goes on (anew=False: its files stay in either case). url_template: YouTube's by default. Raises ValueError for a
    template without {video}, RuntimeError if the practice to start anew is at work.
    """
    practice = str(url_directory) == PRACTICE
    folder = data_folder() / PRACTICE if practice else Path(url_directory).expanduser()
    name = folder.resolve().parent.name if folder.name == "txt" else folder.resolve().name
    output = data_folder() / "scraped" / name if str(output) == "auto" else Path(output).expanduser()
    if not practice:
        template = YOUTUBE if url_template == "auto" else url_template
        check_template(template)
        yield Job(folder, output, template, False)
        return
    if url_template != "auto":
        raise ValueError(f"url_template={url_template!r}: the practice list has a server of its own. Leave this "
                         "out, or give a list of your own.")
    if anew and output == data_folder() / "scraped" / PRACTICE and (output / LEDGER).is_file():
        with only_job(output):
            if "pending" not in set(read_ledger(output)[0]["outcome"]):
                shutil.rmtree(output)
    lists = make_practice(folder, flaws=True) / "url_lists"
    utterances, _ = read_url_lists(lists, progress=False)
    if faults is None:
        faults = practice_faults(utterances)
    elif isinstance(faults, str):
        faults = dict.fromkeys(utterances["video"], faults)
    with serve_practice(folder, faults) as (template, _):
        yield Job(lists, output, template, True)
