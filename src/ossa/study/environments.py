"""In which environments the runs of a study were computed, and what may differ between them."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ossa.errors import DataError, OssaError
from ossa.study.config import StudyConfig
from ossa.study.folder import RunState, StudyFolder
from ossa.train.provenance import NOT_RECORDED, OWN_CODE, THEN
from ossa.train.run_folder import RECORD_FILE, read_record

MUST_AGREE = ("conditions", "code", "torch", "timm", "precision", "device")
"""What decides numbers: runs that differ in it are compared only where the study declares it."""
MAY_DIFFER = ("ossa", "commit", "python", "opencv", "cpu", "threads", "instruction_set", "gpu")
"""What changes the last digits at most: shown where it differs."""
_HASH = 12
_NAMED = 3

Environments = Mapping[str, Mapping[str, str]]
"""The environment of each finished run, by the name of the run."""


@dataclass(frozen=True)
class Difference:
    """A part of the environment that differs between runs."""

    key: str
    runs: Mapping[str, tuple[str, ...]]
    """The runs of each value, most of them first."""
    is_refused: bool
    """Whether the study must declare it."""

    def described(self) -> list[tuple[str, str]]:
        """Returns each value with its runs, in words."""
        return [
            (shorten_hash(self.key, value), _runs(names, all_named=number > 0))
            for number, (value, names) in enumerate(self.runs.items())
        ]

    def __str__(self) -> str:
        values = ", ".join(f"{value} in {runs}" for value, runs in self.described())
        return f"{self.key} {values}"


def find_differences(study: StudyConfig | None, environments: Environments) -> list[Difference]:
    """Returns what differs between the runs, first what is refused in a study unless declared."""
    found = []
    own = sorted({key for known in environments.values() for key in known if _is_own_code(key)})
    for key in (*MUST_AGREE, *own, *MAY_DIFFER):
        if study is not None and f"train.{key}" in study.factors:
            continue
        runs: dict[str, list[str]] = {}
        for name, environment in environments.items():
            if key in own and key not in environment:
                continue  # of another backbone
            runs.setdefault(environment.get(key, NOT_RECORDED), []).append(name)
        if len(runs) > 1:
            by_count = sorted(runs.items(), key=lambda item: -len(item[1]))
            ordered = {value: tuple(names) for value, names in by_count}
            refused = key not in MAY_DIFFER and study is not None and not study.mixed_environments
            found.append(Difference(key, ordered, refused))
    return found


def environments_of(states: Iterable[RunState]) -> dict[str, Mapping[str, str]]:
    """Returns the environments of the finished runs."""
    return {
        state.run.name: state.record.environment
        for state in states
        if state.state == "done" and state.record is not None
    }


def check_environments(study: StudyConfig, environments: Environments, path: Path) -> None:
    """Raises DataError where runs differ in what must agree, unless the study declares it.

    Args:
        study: may have `mixed_environments`.
        environments: of the runs.
        path: the folder of the study.
    """
    refused = [d for d in find_differences(study, environments) if d.is_refused]
    if refused:
        raise DataError(
            expected="runs that were all computed alike",
            found="; ".join(map(str, refused)),
            path=path,
            advice="compute the others again, or declare it with 'mixed_environments: true' in "
            "the file of the study",
        )


def check_next_run(study: StudyFolder, now: Mapping[str, str]) -> None:
    """Raises DataError where a run that is computed now would differ from the finished ones.

    Args:
        study: with its finished runs.
        now: what is known of the environment of the next run.
    """
    for run in study.plan.runs:
        folder = study.run_folder(run)
        record = None
        if (folder / RECORD_FILE).exists():
            with suppress(OssaError):  # a damaged one is shown by `ossa study status`
                record = read_record(folder)
        if record is not None and record.status == "done":
            known = {
                key: record.environment.get(key, NOT_RECORDED)
                for key in now
                if key in record.environment or not _is_own_code(key)
            }
            check_environments(study.study, {run.name: known, "the next run": now}, study.path)
            if known.keys() == now.keys():  # else it has another backbone
                return  # the finished ones agree, or a report refuses them


def shorten_hash(key: str, value: str) -> str:
    """Returns a value of an environment as tables show it."""
    if key not in ("code", "commit") and not _is_own_code(key):
        return value
    parts = value.split(THEN)
    return THEN.join(part if part == NOT_RECORDED else part[:_HASH] for part in parts)


def _is_own_code(key: str) -> bool:
    return key.startswith(OWN_CODE)


def _runs(names: tuple[str, ...], *, all_named: bool) -> str:
    if len(names) == 1:
        return names[0]
    if not all_named:
        return f"{len(names)} runs"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} runs ({', '.join(names[:_NAMED])}{more})"
