"""Formats numbers of bytes for messages."""

_BINARY = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def _size(count: float, base: int, units: tuple[str, ...], least: float, form: str) -> str:
    power = 0
    while count >= least and power < len(units) - 1:
        count, power = count / base, power + 1
    return f"{count:{form if power else '.0f'}} {units[power]}"


def binary(count: float, digits: int = 1) -> str:
    """'1.2 GiB', for memory and disks."""
    return _size(count, 1024, _BINARY, 1024, f".{digits}f")


def decimal(count: float) -> str:
    """'1.23 GB', for files and transfers."""
    return _size(count, 1000, _DECIMAL, 999.5, ".3g")
