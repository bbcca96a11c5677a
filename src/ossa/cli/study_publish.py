"""What others can check: `ossa study verify` and `ossa study publish`."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ossa.cli import options, study_folders
from ossa.cli.command import command
from ossa.escaping import print_line

Study: TypeAlias = Annotated[
    Path, typer.Argument(metavar="STUDY"), "The file of a study, or the folder of a started study."
]
StudyFolderArgument: TypeAlias = Annotated[
    Study, "The folder of a study, or its file if the folder is runs/NAME."
]
Data = Annotated[
    Path | None,
    typer.Option(metavar="PATH", show_default="where it was"),
    "The data set, if it has been moved or is on another machine.",
]


@command()
def verify(study: StudyFolderArgument, data: Data = None, as_json: options.AsJson = False) -> None:
    """Recompute what the records of a study say; exit code 2 where something differs.

    Metrics and intervals from the stored detections, costs from the settings, hashes of all files;
    README.md of a published study is computed anew and compared. Times are taken as they are.

    [bold]Examples[/bold]

      ossa study verify runs/bccd-320

      ossa study verify results/bccd-320 --data /data/bccd
    """
    from ossa.cli.console import Console, print_json
    from ossa.cli.study_output import print_verified
    from ossa.study.folder import read_study_folder
    from ossa.study.report.publish import verify_sentences
    from ossa.study.verify import verify_study

    opened = read_study_folder(study_folders.folder_of(study), data=data)
    with Console() as console:
        with console.progress("verifying runs") as on_run:
            verified = verify_study(opened, on_run=on_run)
        with console.progress("computing README.md again") as on_run:
            sentences = verify_sentences(opened, on_run=on_run)
    if as_json:
        found = {"README.md": sentences.flat()} if sentences else {}
        runs = [run.flat() for run in verified]
        print_json({"study": str(opened.path), "runs": runs, **found})
    else:
        print_verified(verified, sentences)
    if any(each.mismatches for each in (*verified, sentences) if each):
        raise typer.Exit(2)


@command()
def publish(
    study: StudyFolderArgument,
    output: Annotated[options.Folder, typer.Argument(metavar="OUTPUT"), "A new or empty folder."],
    min_score: Annotated[
        float, typer.Option(min=0, max=1, metavar="SCORE"), "Leave out detections below it."
    ] = 0.01,
    pictures: Annotated[
        bool, "Show images of the data set on the page; its licence must allow it."
    ] = False,
    data: Data = None,
) -> None:
    """Write what others need to check a study into a folder small enough to be committed.

    Records, logs, the detections that the study reports on, the page and its sentences, but no
    weights. 'ossa study verify' and 'ossa study report' work on that folder.

    [bold]Example[/bold]

      ossa study publish runs/bccd-320 results/bccd-320-2core-xeon
    """
    from ossa.cli.console import Console
    from ossa.study.folder import read_study_folder
    from ossa.study.report.publish import changes_in_words, publish_study

    options.check_writable("OUTPUT", output)
    opened = read_study_folder(study_folders.folder_of(study), data=data)
    with Console() as console:
        with console.progress("publishing runs") as on_run:
            written = publish_study(
                opened, output, least_score=min_score, pictures=pictures, on_run=on_run
            )
        console.note(
            f"{written.runs} runs, {written.size / 1e6:.1f} MB; without detections below "
            f"{min_score:g} the qualities of a run change by at most: "
            f"{changes_in_words(written.changes)}"
        )
    print_line(output)
