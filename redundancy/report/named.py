"""The classes that `config.report_classes` names. Pure."""

from collections.abc import Sequence

from redundancy.runtime.errors import ConfigError, nearest

_MOST_SHOWN = 12


def named_labels(wanted: int | tuple[str, ...], class_names: Sequence[str]) -> list[int] | None:
    """The labels of the classes that are named, in their order; None if `wanted` is a number.

    Args:
      wanted: `config.report_classes`.
      class_names: by label.

    Raises:
      ConfigError: a name is that of no class.
    """
    if isinstance(wanted, int):
        return None
    labels = {name: label for label, name in enumerate(class_names)}
    for name in wanted:
        if name not in labels:
            listed = ", ".join(class_names[:_MOST_SHOWN])
            more = f" and {len(class_names) - _MOST_SHOWN:,} more" if len(class_names) > _MOST_SHOWN else ""
            raise ConfigError(
                f"config.report_classes names {name!r}, which is no class of the data set.{nearest(name, labels, 3)} "
                f"Wanted: a number, or names out of {listed}{more}."
                + (
                    """ A name with a comma is written "('a,b',)"."""
                    if any("," in each for each in class_names)
                    else ""
                )
            )
    return [labels[name] for name in wanted]
