"""Find weights on the Hugging Face hub, ``hf-hub:OWNER/NAME[@REVISION]``, and in folders like its.

huggingface_hub, which the extra "hub" installs, downloads: with its cache, resumption, tokens and
the environment's HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from resnext_det.weights.published.timm_config import CONFIG, read_config

logger = logging.getLogger(__name__)

PREFIX = "hf-hub:"
"""The beginning of a name of the hub."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The files of weights in a repository or folder, the first that is there is taken."""

# Files of weights by whose names a config.json beside them may be theirs.
_BESIDE_CONFIG = re.compile(r"(?:pytorch_)?model\.(?:bin|pth|pt)|.*\.safetensors")
_NAME = re.compile(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
# huggingface_hub's lines for every attempt, of which the last one's cause is told here.
_OF_ATTEMPTS = re.compile(r"Retrying in |.* thrown while requesting ", re.DOTALL)
_EXAMPLE = f"{PREFIX}timm/resnext50_32x4d.a1h_in1k"


class HubName(NamedTuple):
    """A name of the hub: ``hf-hub:timm/resnext50_32x4d.a1h_in1k@main``.

    Attributes:
        repository: its owner and name.
        revision: a branch, a tag or a commit; None for the branch "main".
    """

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Parse a name.

        Raises:
            ValueError: it is none; the text shows one.
        """
        found = _NAME.fullmatch(text)
        if found is None or ".." in text:
            raise ValueError(
                f"{text!a:.200} is no name of the hub; write {PREFIX}OWNER/NAME or "
                f"{PREFIX}OWNER/NAME@REVISION, such as {_EXAMPLE}"
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def download_from_hub(name: str, *, force: bool = False) -> Path:
    """Download a repository's weights, and the config.json beside them, unless they are here.

    Both are of one commit, which the path tells: ``.../snapshots/COMMIT/model.safetensors``. The
    server is asked whether the revision has changed; without a network, what is here is taken.

    Args:
        name: ``hf-hub:OWNER/NAME[@REVISION]``.
        force: download again what is here.

    Raises:
        FileNotFoundError: there is no such repository, revision or file, or no network; the text
            says what to do.
        ValueError: the name is none; huggingface_hub is not installed; config.json says that the
            network is none of those here; the cache cannot be written to.
    """
    wanted = HubName.parse(name)
    logger.info("%s is looked for on the hub; without a network that takes half a minute.", name)
    config = _fetch(wanted, CONFIG, force=force)
    if config is not None:
        read_config(config.parent, before_download=True)
        wanted = HubName(wanted.repository, config.parent.name)
    for file in WEIGHTS:
        path = _fetch(wanted, file, force=force)
        if path is not None:
            return path
    raise FileNotFoundError(
        f"{name} has no {' and no '.join(WEIGHTS)}; download its file of weights (hf download "
        f"{wanted.repository}) and give the file's path, if it is of a ResNet or ResNeXt"
    )


def _fetch(name: HubName, file: str, *, force: bool) -> Path | None:
    """Fetch one file into huggingface_hub's cache; None where the repository does not have it."""
    try:
        import huggingface_hub as library
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f"{name} is downloaded by the package huggingface_hub, which is not installed; run "
            f"pip install huggingface_hub, or give a folder: {_advise_folder(name)}"
        ) from error
    with _explain_errors(name), _silence_attempts():
        try:
            found = library.hf_hub_download(
                name.repository,
                file,
                revision=name.revision,
                library_name="resnext_det",
                force_download=force,
            )
        except LocalEntryNotFoundError:  # no network; the cache also knows what there is not
            known = library.try_to_load_from_cache(name.repository, file, revision=name.revision)
            if known is not library._CACHED_NO_EXIST:
                raise
            return None
        except EntryNotFoundError:
            return None
    return Path(found)


@contextmanager
def _explain_errors(name: HubName) -> Iterator[None]:
    """Turn what huggingface_hub raises into a sentence that says what to do."""
    from huggingface_hub import constants, utils

    where = constants.ENDPOINT
    try:
        yield
    except utils.HFValidationError as error:
        raise ValueError(f"{name} is no name of the hub: {_shorten(error)}") from error
    except utils.GatedRepoError as error:
        raise FileNotFoundError(
            f"{name} is given only to who accepts its conditions; accept them at "
            f"{where}/{name.repository}, and log in (hf auth login, or a token in HF_TOKEN)"
        ) from error
    except utils.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{where} has no repository {name.repository}, or it is private; correct the name, or "
            "log in (hf auth login, or a token in HF_TOKEN)"
        ) from error
    except utils.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name.repository} has no revision {name.revision or 'main'}; give a branch, a tag or "
            "a whole commit, or leave it out for the branch main"
        ) from error
    except utils.LocalEntryNotFoundError as error:
        offline = constants.HF_HUB_OFFLINE
        answer = _shorten(error.__cause__ or error)
        cause = "HF_HUB_OFFLINE is set" if offline else f"cannot be had from {where} ({answer})"
        remedy = "take it out" if offline else "connect this machine, name a mirror in HF_ENDPOINT"
        raise FileNotFoundError(
            f"{name} is not in the cache {constants.HF_HUB_CACHE}, and {cause}; {remedy}, or, on "
            f"another machine, make a folder and give that: {_advise_folder(name)}"
        ) from error
    except Exception as error:  # of the HTTP library, which differs between its versions
        if isinstance(error, OSError) and error.errno in _OF_DISKS:
            raise ValueError(
                f"{name} cannot be written to {constants.HF_HUB_CACHE} "
                f"({os.strerror(error.errno)}); make room there, or name another folder in HF_HOME"
            ) from error
        raise FileNotFoundError(
            f"{name} cannot be had from {where} ({type(error).__name__}: {_shorten(error)}); try "
            f"again, or make a folder and give that: {_advise_folder(name)}"
        ) from error


@contextmanager
def _silence_attempts() -> Iterator[None]:
    """Leave out what huggingface_hub logs of every attempt to reach its server."""
    theirs = logging.getLogger("huggingface_hub.utils._http")

    def is_told(record: logging.LogRecord) -> bool:
        return _OF_ATTEMPTS.match(record.getMessage()) is None

    theirs.addFilter(is_told)
    try:
        yield
    finally:
        theirs.removeFilter(is_told)


def _advise_folder(name: HubName) -> str:
    revision = f" --revision {name.revision}" if name.revision else ""
    return f"hf download {name.repository}{revision} --local-dir FOLDER"


def _shorten(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return ascii(lines[0])[1:-1][:200] if lines else ""


def may_have_config(path: Path) -> bool:
    """Tell by a file's name whether a config.json beside it may be of its weights."""
    return _BESIDE_CONFIG.fullmatch(path.name) is not None


def find_weights(folder: Path) -> Path:
    """Find the file of weights in a folder laid out as a repository of the hub.

    Raises:
        ValueError: there is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"{folder} is a folder without {' and '.join(WEIGHTS)}, which the hub's have; give a file "
        "of weights in it"
    )
