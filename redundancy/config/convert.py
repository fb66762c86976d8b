"""Completes and checks a given config. Knows nothing of files and data sets, so it can run before any work."""

import numbers
from collections.abc import Mapping
from typing import Any

import ml_collections

from redundancy.config import data, experiment, model, training
from redundancy.config.field import CONTROLS, Field, share_hint
from redundancy.config.sections import FIELDS
from redundancy.runtime.errors import ConfigError, nearest
from redundancy.runtime.paths import given_path

_LONGEST = 4096  # largest number of characters of a text, as for a path on Linux
_MOST_SHOWN = 200  # largest number of characters of a wrong value in a message


def defaults() -> ml_collections.ConfigDict:
    """A config with every field at its default, as a starting point for configs."""
    config = ml_collections.ConfigDict()
    for name, field in FIELDS.items():
        # A reference of type object takes values of any type; the others keep the type of the default.
        config[name] = ml_collections.FieldReference(field.default, object) if field.or_names else field.default
    return config


def describe() -> str:
    """A text that lists the fields by section: name, default, meaning."""
    lines, section = [], None
    for name, field in FIELDS.items():
        if field.section != section:
            section = field.section
            lines += ["", section]
        lines.append(f"  {name + ' = ' + repr(field.default):<44} {field.doc}")
    return "\n".join(lines) + "\n"


def check_variant(arg: str, known: tuple[str, ...]) -> None:
    """Raises ConfigError if a config file's argument is neither empty nor one of `known`."""
    if arg and arg not in known:
        raise ConfigError(
            f"the config has no argument {arg!r}.{nearest(arg, known)} Arguments: {', '.join(known) or 'none'}."
        )


def _shown(value: Any) -> str:
    """A wrong value as one short line."""
    try:
        text = " ".join(repr(value).split())
    # Python does not print integers of thousands of digits, and other objects may raise any exception.
    except Exception as error:
        text = f"a value that cannot be shown: {type(error).__name__}"
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def convert_value(name: str, field: Field, value: Any) -> Any:
    """Converts `value` to the type of the field; raises ConfigError if it has another type."""

    def fail(wanted):
        raise ConfigError(
            f"config.{name} is {_shown(value)} ({type(value).__name__}); wanted: {wanted} ({field.doc})."
            + share_hint(field, value)
        )

    def scalar(item, kind):
        if isinstance(item, numbers.Real) and not isinstance(item, bool):  # including NumPy's numbers
            try:
                if kind is float:
                    return float(item)
                if kind is int and item == int(item):
                    return int(item)
            except (OverflowError, ValueError):
                fail("a number within the range of floats")
        if kind is str and isinstance(item, str):
            if found := CONTROLS.search(item):
                fail(f"a text without control characters and broken UTF-8 ({found[0]!r})")
            if len(item) > _LONGEST:
                fail(f"a text of at most {_LONGEST} characters")
            return given_path(f"config.{name}", str(item)) if field.is_path else str(item)
        if type(item) is not kind:
            fail(
                field.wanted
                if field.or_names
                else {float: "a number", int: "a whole number", str: "a text", bool: "True or False"}[kind]
            )
        return item

    if isinstance(field.default, tuple):
        if isinstance(value, (str, int, float)):
            value = (value,)
        if not isinstance(value, (tuple, list)):
            fail(f"a tuple of {field.item.__name__}")
        if field.item is str:
            # A tuple from the command line is one text, such as "start,end".
            value = [
                part for item in value for part in (item.replace(" ", "").split(",") if type(item) is str else [item])
            ]
        converted = tuple(scalar(item, field.item) for item in value)
    elif field.or_names and isinstance(value, (str, tuple, list)):
        names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        # On the command line the names "7,8" arrive as numbers.
        converted = tuple(scalar(str(item) if type(item) is int else item, str) for item in names)
    else:
        converted = scalar(value, type(field.default))
    numbers_there = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(item, float) and not abs(item) < float("inf") for item in numbers_there):
        fail("finite numbers")
    if not field.check(converted):
        fail(field.wanted)
    return converted


def resolve(given: Mapping[str, Any] | ml_collections.ConfigDict) -> ml_collections.FrozenConfigDict:
    """The complete and checked config: the values of `given`, and defaults for all other fields.

    Raises:
      ConfigError: a field is unknown (the message suggests a name), or a value has the wrong type or is out of range.
    """
    config = defaults()
    for name in given:
        if name not in FIELDS:
            text = isinstance(name, str)
            near = nearest(name, FIELDS, 3) if text else ""
            shown = name if text and name.isidentifier() else _shown(name)
            raise ConfigError(f'config.{shown} is not a field.{near} "redundancy --helpfull" lists all fields.')
        try:
            value = given[name]
        # For example, a placeholder without a value, or a reference that cannot be computed.
        except Exception as error:
            raise ConfigError(f"config.{name} has no value ({_shown(error)}); give it one.") from error
        with config.ignore_type():
            config[name] = convert_value(name, FIELDS[name], value)
    for section in (model, experiment, training, data):
        section.check(config)
    return ml_collections.FrozenConfigDict(config)


def need_dataset(config: Mapping[str, Any], what: str) -> None:
    """Raises ConfigError, which says that `what` needs a data set, if the config has none."""
    if not config["dataset"]:
        raise ConfigError(
            f"config.dataset is '': this config has no data set, and {what} needs one. Imported embeddings are enough for "
            "link, select and export; for the other stages give the config of the embeddings' data set, or "
            "--config.dataset."
        )
