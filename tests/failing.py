"""Checks of a command that ends with an error."""


def fails(done, *said, code=None):
    """The process failed with one line that says it, and no stack trace."""
    assert done.returncode != 0
    if code is not None:
        assert done.returncode == code
    assert "Traceback" not in done.stderr, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("redundancy: error: "), done.stderr
    for text in said:
        assert text in message, message
