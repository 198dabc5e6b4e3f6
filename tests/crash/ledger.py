"""The ledger of the killed processes, and the verdict on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.envelopes import look

__all__ = ("Verdict", "read")


@dataclass(frozen=True)
class Verdict:
    """What became of the jobs."""

    accepted: int
    #: Accepted, and neither ended nor buried nor still in the file.
    lost: list[str]
    #: Buried though their task does not give up.
    innocent: list[str]
    #: The same attempt began again, though the process that ran it was not stopped.
    repeated: list[str]
    #: Ended more than once.
    ended_twice: int
    #: Run though nobody was told that they were accepted.
    unconfirmed: int
    #: Still in the file, and not dead.
    left: int

    @property
    def faults(self) -> list[str]:
        """Everything that must not happen."""
        return self.lost + self.innocent + self.repeated

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, lost {len(self.lost)}, buried by mistake "
            f"{len(self.innocent)}, run again for nothing {len(self.repeated)}; "
            f"ended twice {self.ended_twice}, run though unconfirmed {self.unconfirmed}, "
            f"left {self.left}"
        )


def read(file: Path, ledger: Path, stopped: set[int]) -> Verdict:
    """Compare the ledger with the file.

    Args:
        stopped: the ids of processes that were stopped while they ran jobs.
    """
    accepted, begun = set[str](), defaultdict[tuple[str, str], list[int]](list)
    ended = Counter[str]()
    for line in ledger.read_text().splitlines():
        what, number, process, attempt = line.split()
        if what == "accepted":
            accepted.add(number)
        elif what == "begin":
            begun[number, attempt].append(int(process))
        else:
            ended[number] += 1
    rows = look(file, "SELECT id, state, task FROM aiohttp_jobs")
    kept = {number for number, _, _ in rows}
    dead = {number: task for number, state, task in rows if state == 3}
    repeated = [
        number
        for (number, _), processes in begun.items()
        if sum(process not in stopped for process in processes) > 1
    ]
    known = {number for number, _ in begun} | kept
    return Verdict(
        len(accepted),
        sorted(accepted - ended.keys() - kept),
        sorted(number for number, task in dead.items() if task != "give up"),
        repeated,
        sum(times > 1 for times in ended.values()),
        len(known - accepted),
        len(kept) - len(dead),
    )
