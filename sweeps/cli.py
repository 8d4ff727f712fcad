"""The command line: every value checked before anything starts."""

import contextlib
import json
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import docstring_parser
import timm
import yaml
from jsonargparse import ArgumentParser, Namespace

from slim.tasks import with_absolute_path
from sweeps.config import SweepConfig, flatten, from_dict, resolved
from sweeps.errors import InputError
from sweeps.mirror import is_uri
from sweeps.pretrained import suited

_GROUPS = {
    field.name
    for field in fields(SweepConfig)
    if callable(field.default_factory) and is_dataclass(field.default_factory())
}
_USAGE = """run_sweep.py [--config FILE] [--OPTION VALUE ...] [--dry-run]
       run_sweep.py --resume NAME [--OPTION VALUE ...] [--dry-run]
       run_sweep.py --report NAME [--storage FOLDER] [--tracking-uri URI]
       run_sweep.py --compare A B [--storage FOLDER] [--tracking-uri URI]"""
_RESUME = (
    "Go on with a run. --trials may be raised; cluster, concurrency, workers, CPUs, GPUs, limits "
    "of what is kept, retries, patience, min-gain, download, register and verbose may differ; all "
    "else is as it began."
)
_READ_BY_REPORTS = {
    *("--report", "--compare", "--config", "--storage", "--tracking-uri", "--verbose")
}
_SECRET_WORDS = (
    *("password", "passwd", "pwd", "secret", "access_key", "api_key", "apikey", "token"),
    *("signature", "credential"),
)
_SECRETS = {"sig", "key"}
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Command:
    """What the user asked for.

    Args:
        config: All values, defaults that depend on others filled in, paths made absolute.
        resume: Name of the run to go on with, or None.
        given: Dotted names of the values that the command line or the YAML gave.
        dry_run: "", "text" or "json".
        report: Name of a run whose reports are made again, or None.
        compare: Names of two runs to set beside each other, or none.
    """

    config: SweepConfig
    resume: str | None
    given: frozenset[str]
    dry_run: str
    report: str | None = None
    compare: tuple[str, ...] = ()


def parse(arguments: list[str]) -> Command:
    """Read the command line.

    Raises:
        InputError: If an option is unknown, abbreviated, ill-typed or out of range; one line.
    """
    parser = make_parser()
    values, config, given = _checked(parser, arguments)
    resume = values.resume
    compare = tuple(values.compare or ())
    _one_of(resume=resume, report=values.report, compare=compare)
    _one_of(dry_run=values.dry_run, report=values.report, compare=compare)
    options = _options(_normalised(arguments))
    if values.report or compare:
        _refuse_unread(options)
    named = "--name" in options
    _one_of(name=named and config.name != resume, resume=resume)
    for name in (config.name, config.searched, resume, values.report, *compare):
        check_name(name)
    known = frozenset(given & flatten(config.to_dict()).keys())
    config = suited(absolute_paths(resolved(config)), known)
    return Command(config, resume, known, values.dry_run, values.report, compare)


def _one_of(**given: Any) -> None:
    """Refuse options that say different things to do."""
    options = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(options) > 1:
        raise InputError(f"{options[0]} does not go with {options[1]}; leave one out")


def _refuse_unread(options: set[str]) -> None:
    """Refuse options that would change nothing of a report."""
    given = {option.replace("_", "-") for option in options if option.startswith("--")}
    if unread := sorted(given - _READ_BY_REPORTS):
        raise InputError(f"{unread[0]} changes no report of a run that is there; leave it out")


def read_values(path: Path) -> SweepConfig:
    """A file of values as it stands, under the checks of the command line.

    Raises:
        InputError: If it cannot be read, or a value is unknown, ill-typed or out of range.
    """
    parser = make_parser()
    _, config, _ = _checked(parser, [f"--config={path}"])
    return resolved(config)


def _checked(
    parser: ArgumentParser, arguments: list[str]
) -> tuple[Namespace, SweepConfig, set[str]]:
    """The values, as parsed and as the experiment's, and the names of those that were given."""
    normalised, files = _normalised(arguments), _files(arguments)
    try:
        for file in files:
            _refuse_empty(Path(file))
        values = parser.parse_args(normalised)
        given = set().union(*map(_named, normalised, [*normalised[1:], ""]))
        for path in values.config or []:
            given |= _names(yaml.load(Path(str(path)).read_text(), _UniqueKeyLoader))
        config = _instantiate(parser, values)
        _refuse_nulls(config)
    except Exception as error:  # jsonargparse and yaml raise many kinds, all about the input
        line = _one_line(str(error), parser).replace('"<unicode string>"', " ".join(files))
        if files and line.startswith("--") and line.partition(":")[0] not in _options(normalised):
            line = f"{' '.join(files)}: {line}"
        raise InputError(line) from error
    return values, config, given


def _named(argument: str, following: str) -> set[str]:
    """The dotted names of the values that an argument gives, the next one being its value."""
    if not argument.startswith("--"):
        return set()
    option, equals, value = argument.partition("=")
    name = option.lstrip("-").rstrip("+").replace("-", "_")
    group = any(below.startswith(f"{name}.") for below in flatten(SweepConfig().to_dict()))
    return _names({name: yaml.safe_load(value if equals else following) if group else ""})


def _names(values: dict[str, Any]) -> set[str]:
    """The dotted names of given values; a group in a file of its own counts as given whole."""
    names = set(flatten(values))
    for name in flatten(SweepConfig().to_dict()):
        parents = name.split(".")[:-1]
        if any(".".join(parents[: n + 1]) in names for n in range(len(parents))):
            names.add(name)
    return names


def _refuse_nulls(values: Any, prefix: str = "") -> None:
    """YAML's null stands for a default only where that default depends on other values."""
    for field in fields(values):
        value, name = getattr(values, field.name), prefix + field.name
        if is_dataclass(value):
            _refuse_nulls(value, f"{name}.")
        elif value is None and field.default is not None:
            raise ValueError(f"--{name} null is no value; give one, or leave it out")


def _refuse_empty(path: Path) -> None:
    """A file of comments alone says nothing, which cannot be what was meant."""
    with contextlib.suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # parsing tells
        if yaml.safe_load(path.read_text()) is None:
            raise ValueError(f"{path} holds no values; give some, or leave --config out")


def _options(arguments: list[str]) -> set[str]:
    """The options of a command line."""
    return {argument.partition("=")[0] for argument in arguments}


def _files(arguments: list[str]) -> list[str]:
    """The YAML files that the command line names."""
    following = [*arguments, ""][1:]
    return [
        argument.partition("=")[2] or after
        for argument, after in zip(arguments, following, strict=True)
        if argument.partition("=")[0] == "--config"
    ]


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, where YAML would take the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def make_parser() -> ArgumentParser:
    """The parser; its options are the fields of `SweepConfig` and what to do with them."""
    parser = ArgumentParser(
        prog="run_sweep.py",
        usage=_USAGE,
        description="Search masks once, then slim, fine-tune and compare networks of any budget.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", metavar="FILE", help="YAML file with values below."
    )
    parser.add_argument("--resume", type=str, metavar="NAME", help=_RESUME)
    parser.add_argument("--report", type=str, metavar="NAME", help="Make a run's reports again.")
    parser.add_argument(
        "--compare",
        type=str,
        nargs=2,
        metavar=("A", "B"),
        help="Names of two runs; their fronts are written into one page.",
    )
    parser.add_argument(
        "--dry-run",
        nargs="?",
        const="text",
        default="",
        choices=["", "text", "json"],
        metavar="{text,json}",
        help="Print the plan (budgets, MACs, parameters, estimated time) and train nothing; "
        "--dry-run=json for programs.",
    )
    meanings = _meanings(SweepConfig)
    for field in fields(SweepConfig):
        if field.name in _GROUPS:
            assert callable(field.default_factory)
            parser.add_class_arguments(type(field.default_factory()), field.name)
            continue
        flag: dict[str, Any] = {"nargs": "?", "const": True} if field.type is bool else {}
        assert field.default is not MISSING
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=field.type,
            default=field.default,
            help=meanings[field.name],
            **flag,
        )
    for action in parser._actions:
        if action.dest == "space":
            action.metavar, action.help = "DIMENSIONS", "Short for --space.dimensions."
        elif action.metavar == "CONFIG":
            action.metavar, action.help = "FILE", "YAML file with the values below."
    return parser


def check_name(name: str | None) -> None:
    """Refuse a run name that is not a plain folder name.

    Raises:
        InputError: Says which characters a name may have.
    """
    if name is not None and (not RUN_NAME.fullmatch(name) or ".." in name):
        raise InputError(
            f"run name {name!r} is not usable; give 1 to 128 of the letters A-Z a-z, digits, "
            "'.', '_' and '-', beginning with a letter or digit, without '..'"
        )


def _holds_secret(uri: str) -> bool:
    """Whether a URI names a user's password, or a key or token among its options.

    A user's name alone is one where it stands for a token: wherever no database is asked.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite":
        return False
    place, _, query = rest.partition("?")
    given = {name.lower(): value for name, value in parse_qsl(query, True)}
    nested = {part.partition("=")[0].lower() for part in given.get("odbc_connect", "").split(";")}
    options = given.keys() | nested
    if options & _SECRETS or any(word in name for name in options for word in _SECRET_WORDS):
        return True
    token = re.fullmatch("https?|s3|gs", scheme) and "@" in place.partition("/")[0]
    return bool(token) or ":" in place.rpartition("@")[0]


def absolute_paths(config: SweepConfig) -> SweepConfig:
    """Make paths absolute, so that workers in other folders find them.

    Raises:
        InputError: If the storage is neither a folder nor a bucket, or the tracking URI holds a
            password.
    """
    bucket = re.match(r"(s3|gs)://[^/@?]+", config.storage)
    if is_uri(config.storage) and _holds_secret(config.storage):
        raise InputError("the storage URI holds a key; credentials are taken from the environment")
    if is_uri(config.storage) and not bucket:
        raise InputError(
            f"storage {config.storage!r} is neither a folder nor s3://BUCKET/PREFIX or "
            "gs://BUCKET/PREFIX; credentials are taken from the environment"
        )
    if _holds_secret(config.tracking_uri):
        raise InputError(
            "the tracking URI holds a password or a key, which would be written to files; give it "
            "without, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        )
    for option, names in (("data", [config.data]), ("tasks", config.tasks.split(","))):
        if not all(name.strip() for name in names):
            raise InputError(
                f"--{option} {getattr(config, option)!r} has an empty name; leave it out"
            )
    uri = config.tracking_uri
    scheme, _, rest = uri.partition(":///")
    if scheme == "sqlite" and rest:
        uri = f"sqlite:///{Path(rest).expanduser().resolve()}"
    return replace(
        config,
        storage=_absolute_storage(config.storage),
        tracking_uri=uri,
        data=with_absolute_path(config.data),
        model=_absolute_model(config.model),
        weights=config.weights and str(Path(config.weights).expanduser().resolve()),
        tasks=",".join(with_absolute_path(name.strip()) for name in config.tasks.split(",")),
    )


def _absolute_storage(storage: str) -> str:
    """A bucket as it is, a folder made absolute."""
    return storage.rstrip("/") if is_uri(storage) else str(Path(storage).expanduser().resolve())


def _absolute_model(name: str) -> str:
    """A name as it is, or the path of a folder made absolute."""
    named = name == "vit" or timm.is_model(name)
    if "/" in name or name.startswith((".", "~")) or (Path(name).is_dir() and not named):
        return str(Path(name).expanduser().resolve())
    return name


def _instantiate(parser: ArgumentParser, values: Namespace) -> SweepConfig:
    """Plain Python numbers in our dataclasses: jsonargparse's number types do not travel."""
    for name, value in vars(values).items():
        if name in _GROUPS and not isinstance(value, Namespace):
            raise ValueError(f"{name} is {value!r}, expected options below it")
    objects = parser.instantiate(values)
    target = objects["target_gmacs"]
    objects["target_gmacs"] = repr(target) if isinstance(target, float) else target
    given = SweepConfig(**{field.name: objects[field.name] for field in fields(SweepConfig)})
    config: SweepConfig = from_dict(SweepConfig, json.loads(json.dumps(given.to_dict())))
    return config


def _normalised(arguments: list[str]) -> list[str]:
    """Accept `-` and `_` alike in option names, `--space` for the dimensions of the space."""
    changed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = "--space.dimensions" if name == "--space" else name
        if name.startswith("--") and "." in name:
            name = "--" + name[2:].replace("-", "_")
        elif name.startswith("--") and name != "--print_config":  # jsonargparse's own
            name = name.replace("_", "-")
        changed.append(name + equals + value)
    return changed


def _meanings(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field."""
    parsed = docstring_parser.parse(kind.__doc__ or "")
    return {param.arg_name: param.description or "" for param in parsed.params}


def _one_line(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message without line breaks, class names and doubled causes."""
    line = " ".join(message.split())
    unknown = re.search(r"nrecognized arguments?: (--[\w.-]+)", line)
    near = get_close_matches(unknown[1], parser._option_string_actions, n=1) if unknown else []
    if near:
        return f"{line}; near: {', '.join(near)}; see --help"
    line = re.sub(r"^Parser key \"([^\"]+)\": ?", _as_option, line)
    causes = re.search(
        r"Does not validate against any of the Union subtypes .* Errors: - (.*)", line
    )
    if causes:
        first = re.split(r" - Expected a <class 'NoneType'>| Given value type:", causes[1])[0]
        value = causes[1].partition(" Given value: ")[2]
        line = line[: causes.start()] + first.replace(": does not", f": {value} does not")
    return f"{line}; see --help"


def _as_option(match: re.Match[str]) -> str:
    name = match[1] if "." in match[1] else match[1].replace("_", "-")
    return f"--{name}: "
