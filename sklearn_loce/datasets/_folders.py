"""Match the files of folders by their names."""

from dataclasses import dataclass
from pathlib import Path

_IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Names:
    """Names of files of one kind: PREFIX, the common name, SUFFIX.

    Parameters
    ----------
    prefix : str
    suffix : str or None
        ``None`` means the suffixes of the usual image formats.
    """

    prefix: str
    suffix: str | None

    def strip(self, name):
        """Return the text between prefix and suffix of any case, or None."""
        suffixes = _IMAGE_SUFFIXES if self.suffix is None else (self.suffix,)
        suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
        fits = suffix is not None and name.lower().startswith(self.prefix.lower())
        if not fits or len(name) < len(self.prefix) + len(suffix):
            return None
        return name[len(self.prefix) : len(name) - len(suffix)]

    def __str__(self):
        suffix = " or ".join(_IMAGE_SUFFIXES) if self.suffix is None else self.suffix
        return f"{self.prefix}NAME{suffix}"


def files_by_name(folder, names, what):
    """Return {relative path with the common name: path} of the files with such names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {str(folder)!r} does not exist.")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = names.strip(path.name)
        if name is None or path.name.startswith(".") or not path.is_file():
            continue
        name = (path.relative_to(folder).parent / name).as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} are both the {what} {name!r}.")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} has no {what} that is named {names}.")
    return found
