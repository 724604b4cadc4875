"""Decides, before a byte is written, whether everything in a zip archive may be extracted."""

import re
import stat
import unicodedata
import zipfile
from pathlib import PurePosixPath

LARGEST_MEMBER = 1 << 30  # bytes: the longest VoxCeleb utterance takes 5 MB
LARGEST_RATIO = 200  # of uncompressed to compressed size, of a member over 8 MB; speech has less than 2
LARGEST_TOTAL_RATIO = 20  # of an archive over 1 MB
LOCAL_HEADER = 30  # bytes in front of each member, and its name
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def check_members(members, num_bytes, archive):
    """The regular files among a zip's members (ZipInfo), in the order of their bytes in the archive.

    num_bytes: of the whole zip. Raises ValueError that names the first member which leads out of the target folder,
    is no regular file, cannot be told from another one, or is absurdly large: such an archive is refused whole.
    """
    files, seen, folders, end, last = [], {}, {}, 0, ""
    for member in sorted(members, key=lambda member: member.header_offset):
        name = member.orig_filename
        reason = _bad_path(name) or _bad_kind(member) or _bad_size(member, num_bytes)
        if not reason and member.header_offset < end:
            reason = f"shares its bytes with {last!r}"
        end, last = member.header_offset + LOCAL_HEADER + len(name) + member.compress_size, name
        plain = _fold(name.rstrip("/"))
        if not reason and plain in seen and not (member.is_dir() and name == seen[plain]):
            reason = f"cannot be told from {seen[plain]!r}"
        seen[plain] = name
        if reason:
            raise ValueError(_refusal(archive, name, reason))
        if not member.is_dir():
            files.append(member)
            folder = plain.rpartition("/")[0]
            folders.setdefault(folder, name)
    for folder, inside in folders.items():
        for above in (folder, *map(str, PurePosixPath(folder).parents)):
            if above in seen and not seen[above].endswith("/"):
                raise ValueError(_refusal(archive, inside, f"lies in {seen[above]!r}, which is a file"))
    total = sum(member.file_size for member in files)
    if total > max(1 << 20, LARGEST_TOTAL_RATIO * num_bytes):
        largest = max(files, key=lambda member: member.file_size)
        raise ValueError(_refusal(archive, largest.filename, f"and the others claim {total:,} bytes out of an archive "
                                  f"of {num_bytes:,}"))
    return files


def _refusal(archive, name, reason):
    return (f"{archive}: its member {name!r} {reason}. The whole archive is refused; nothing was written. Get it again "
            "from the archives' authors.")


def _bad_path(name):
    """What is wrong with a member's path, or ""."""
    parts = name.removesuffix("/").split("/")
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in parts:
        return "leads out of the target folder"
    if "\\" in name or re.match("[A-Za-z]:", name):
        return "has a backslash or a drive letter in its path"
    if not name.isprintable():
        return "has characters in its path that cannot be printed"
    for part in parts:
        if part in ("", ".") or part[-1] in ". " or part[0] == " " or set(part) & set('<>:"|?*') or len(part) > 200:
            return f"has {part!r} in its path, which is no name on every system"
        if _DEVICE.fullmatch(part):
            return f"has the name of a device, {part!r}, in its path"
        if part.startswith(".") and part.endswith(".part"):
            return f"has {part!r} in its path, which is kept for files that are being written"
    return ""


def _bad_kind(member):
    kind = stat.S_IFMT(member.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > member.is_dir():
        return "is neither a file nor a folder"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that is not expected here"
    return ""


def _bad_size(member, num_bytes):
    if member.file_size > LARGEST_MEMBER:
        return f"claims {member.file_size:,} bytes, expected at most {LARGEST_MEMBER:,}"
    if member.file_size > 1 << 23 and member.file_size > LARGEST_RATIO * member.compress_size:
        return f"claims {member.file_size:,} bytes out of {member.compress_size:,} compressed ones"
    if member.header_offset < 0 or member.header_offset + LOCAL_HEADER + member.compress_size > num_bytes:
        return "lies outside the archive"
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        return f"claims {member.file_size:,} bytes and stores {member.compress_size:,}"
    return ""


def _fold(name):
    """Equal for names that a file system may take for the same: case, and how accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
