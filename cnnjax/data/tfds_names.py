"""What `tfds:NAME` names, where it is prepared, and how to prepare it."""

import shlex
from pathlib import Path
from typing import NamedTuple

from cnnjax.data.dataset import SPLITS
from cnnjax.errors import UsageError, unknown

_SPEC = (
    "tfds:NAME[/CONFIG][:VERSION] or with ?OPTIONS, joined by &: train=SPLIT, validation=SPLIT, test=SPLIT in TFDS's "
    "words and crop=random, such as tfds:mnist?train=train[:90%]&validation=train[90%:]"
)


class Spec(NamedTuple):
    """What `tfds:NAME[/CONFIG][:VERSION][?OPTIONS]` names."""

    text: str
    name: str
    config: str | None
    version: str | None
    splits: dict[str, str]
    random_crop: bool

    @classmethod
    def of(cls, text: str) -> "Spec":
        """Return what a text names, or raise UsageError."""
        from tensorflow_datasets.core import naming

        path, _, options = text.removeprefix("tfds:").partition("?")
        try:
            name, more = naming.parse_builder_name_kwargs(path)
            given = dict(option.split("=", 1) for option in options.split("&") if option)
        except ValueError as error:
            raise UsageError(f"dataset {text!r}: expected {_SPEC}.") from error
        crop = given.pop("crop", None)
        if crop not in (None, "random") or not set(given) <= set(SPLITS) or not set(more) <= {"config", "version"}:
            raise UsageError(f"dataset {text!r}: expected {_SPEC}.")
        return cls(text, str(name), more.get("config"), more.get("version"), given, crop is not None)


def is_known(name: str) -> bool:
    """Return whether TFDS itself has a set of that name, with or without configuration, version and options."""
    try:
        return Spec.of(f"tfds:{name}").name in _builders()
    except UsageError:
        return False


def find(spec: Spec, data_dir: Path) -> Path:
    """Return where a set is prepared, in its newest version, or raise UsageError with what to do."""
    root = data_dir / spec.name
    versions = _versions(root / spec.config if spec.config else root)
    if not versions and spec.config is None and root.is_dir():
        configs = sorted(path.name for path in root.iterdir() if path.is_dir() and _versions(path))
        if len(configs) > 1:
            raise UsageError(f"{root}: prepared in several configurations. Name one: tfds:{spec.name}/{configs[0]}.")
        versions = _versions(root / configs[0]) if configs else {}
    if spec.version is not None and spec.version in versions:
        return versions[spec.version]
    if spec.version is None and versions:
        return versions[max(versions, key=lambda version: [int(part) for part in version.split(".")])]
    raise _not_prepared(spec, data_dir, sorted(versions))


def _versions(folder: Path) -> dict[str, Path]:
    found = folder.glob("*.*.*/dataset_info.json") if folder.is_dir() else ()
    return {p.parent.name: p.parent for p in found if p.parent.name.replace(".", "").isdecimal()}


def _not_prepared(spec: Spec, data_dir: Path, versions: list[str]) -> UsageError:
    name = spec.name + (f"/{spec.config}" if spec.config else "")
    there = f"; there {'is' if len(versions) == 1 else 'are'} {', '.join(versions)}" if versions else ""
    which = f"{name}:{spec.version}" if spec.version else name
    if spec.name not in _builders():
        known = str(unknown("dataset of TFDS", spec.name, _builders())).partition(" Known: ")[0]
        return UsageError(
            f"{which} is not prepared in {data_dir}{there}. {known.rstrip('.?')}. Of a builder of your own, prepare it "
            f"where tensorflow is installed: {_command(f'FOLDER/{spec.name}', data_dir)}"
        )
    config = "" if spec.config else _default_config(spec.name)
    command = _command(which if not config else f"{name}/{config}{which.removeprefix(name)}", data_dir)
    return UsageError(
        f"{which} is not prepared in {data_dir}{there}. Prepare it where tensorflow is installed: {command} "
        "(or save the images, one folder a class, and type --dataset folder:DIR)."
    )


def _command(name: str, data_dir: Path) -> str:
    return f"tfds build {shlex.quote(name)} --file_format=array_record --data_dir={shlex.quote(str(data_dir))}"


def _default_config(name: str) -> str:
    import tensorflow_datasets as tfds

    try:
        configs = tfds.builder_cls(name).builder_configs
    except Exception:  # a builder's module may import what is not installed here
        return ""
    return next(iter(configs), "")


def _builders() -> list[str]:
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)
