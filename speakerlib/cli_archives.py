"""The commands of VoxCeleb's official archives: list, download, extract, convert."""

import argparse
import os
import shlex

ARCHIVES_EXAMPLES = """examples:
  speakerlib archives list
  speakerlib archives download vox1_dev_wav vox1_test_wav --output ~/voxceleb --url-template 'https://.../{file}?key={key}'
  speakerlib archives extract vox1_dev_wav vox1_test_wav --output ~/voxceleb      to ~/voxceleb/vox1
  speakerlib import ~/voxceleb/vox1
  speakerlib archives convert ~/voxceleb/vox2                                     m4a to FLAC

VoxCeleb's authors hand out an access key, or a user name and password, on request. It is read from VOXCELEB_KEY, or
from VOXCELEB_USER and VOXCELEB_PASSWORD, or asked for; it is never an option, and is never shown or written down."""

IMPORT_NEXT = "Next: speakerlib import {} --pattern '{{speaker}}/{{session}}/{{utterance}}.{}'"


def add_archives(add):
    """Adds them to the grammar; add(name, command, summary, epilog) returns a parser."""
    sub = add("archives", None, "VoxCeleb's official archives: list, download, extract, convert", ARCHIVES_EXAMPLES)
    steps = sub.add_subparsers(title="steps", metavar="STEP", required=True)
    for name, command, summary in (
        ("list", archives_list, "show the archives, their parts and checksums"),
        ("download", archives_download, "download and check archives; goes on where it stopped"),
        ("extract", archives_extract, "unpack archives from their parts"),
        ("convert", archives_convert, "convert m4a or wav files to 16 kHz FLAC or wav, in parallel"),
    ):
        step = steps.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
                                epilog=ARCHIVES_EXAMPLES, formatter_class=sub.formatter_class)
        step.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        step.set_defaults(command=command)
        if name in ("download", "extract"):
            step.add_argument("names", nargs="+", metavar="ARCHIVE", help="such as vox1_dev_wav, see `archives list`")
            step.add_argument("--output", required=True, metavar="FOLDER", help="of the archives; what is in them goes "
                              "to vox1/ and vox2/ there")
        if name == "extract":
            step.add_argument("--archives", metavar="FOLDER", help="where the archives lie, if not in the output")
        if name == "download":
            step.add_argument("--url-template", metavar="URL", help="from the authors' mail, with {file} and, if "
                              "there is one, {key} in place (default: $VOXCELEB_URL)")
        if name == "convert":
            step.add_argument("folder", help="the extracted archive")
            step.add_argument("--to", choices=("flac", "wav"), default="flac")
            step.add_argument("--workers", type=int, metavar="N", help="default: one a core")
            step.add_argument("--delete-source", action="store_true", help="delete a source once its copy is checked")


def archives_list(options):
    from speakerlib.data.archives.listing import list_archives

    print(list_archives().to_string(index=False))


def archives_download(options):
    from speakerlib.data.archives.download import download_archives

    template = options.url_template or os.environ.get("VOXCELEB_URL")
    download_archives(options.names, options.output, url_template=template)


def archives_extract(options):
    from speakerlib.data.archives.extract import extract_archives

    for folder in extract_archives(options.names, options.archives or options.output, options.output):
        print(IMPORT_NEXT.format(shlex.quote(str(folder)), "m4a" if folder.name == "vox2" else "wav"))


def archives_convert(options):
    from speakerlib.data.archives.convert import convert_audio

    convert_audio(options.folder, suffix=f".{options.to}", num_workers=options.workers,
                  delete_source=options.delete_source)
    print(IMPORT_NEXT.format(shlex.quote(options.folder), options.to))
