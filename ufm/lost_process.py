"""What a process says when it waits for another one that has ended: one line instead of torch's own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

PLACE = re.compile(r"^\[\S*/gloo/\S+\] ")  # where gloo's source says it
SIGNS = ("/gloo/", "ncclRemoteError")  # in what torch says of a lost process: a file of gloo's, a result of NCCL's


class LostProcess(RuntimeError):
    """Another process has ended, or does not answer; of one line."""

    @classmethod
    def of(cls, error: RuntimeError) -> "LostProcess":
        """What to raise for what torch does."""
        said = PLACE.sub("", str(error).partition("\n")[0].partition(". This is typically")[0])
        return cls(f"another process was lost, or does not answer; see what it said ({said})")


@contextmanager
def others_needed() -> Iterator[None]:
    """A block in which torch sends and receives: raises LostProcess where another process is lost."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess.of(error) from error


@contextmanager
def lost_process_told(way_out: str) -> Iterator[None]:
    """A block that computes, and sends and receives in between: where another process is lost, LostProcess tells the way out."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, LostProcess) or any(sign in str(error) for sign in SIGNS):
            lost = error if isinstance(error, LostProcess) else LostProcess.of(error)
            raise LostProcess(f"{lost}; {way_out}") from error
        raise
