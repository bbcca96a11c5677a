"""What the site shows beside the pages of docs/: the files of the repository that pages link to.

`../results/x.md` is a file of the repository for whoever reads docs/ there, and a page of the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"\]\(\.\./([^)#\s]*)(#[^)]*)?\)")
"""Out of docs/, to a file or folder of the repository, with the anchor where there is one."""
_RESULTS = "results/"


def on_files(files: Files, *, config: Any) -> Files:
    """Adds measurements, reports of studies, a list of them, and what else is linked to."""
    root = Path(config["docs_dir"]).parent
    pages = sorted((root / _RESULTS).glob("*.md"))
    listed = "\n".join(f"- [{_title(page)}]({page.name})" for page in pages)
    content = f"# Measurements\n\nEach names its command and the hardware.\n\n{listed}\n"
    files.append(File.generated(config, f"{_RESULTS}index.md", content=content))
    linked = {
        path
        for folder in (root / "docs", root / _RESULTS)
        for page in folder.glob("*.md")
        for path, _ in _LINK.findall(page.read_text())
        if (root / path).is_file()
    }
    measured = [*pages, *(root / _RESULTS).glob("*/report.html")]
    for path in sorted(linked | {str(page.relative_to(root)) for page in measured}):
        if files.get_file_from_path(path.removeprefix("docs/")) is None:
            files.append(File.generated(config, path, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turns links out of docs/ into links within the site; those to folders into their names."""
    from_results = page.file.src_uri.startswith(_RESULTS)

    def within(link: re.Match[str]) -> str:
        path, anchor = link[1], link[2] or ""
        if path == _RESULTS:
            path += "index.md"
        return f"]({'../' if from_results else ''}{path.removeprefix('docs/')}{anchor})"

    markdown = _LINK.sub(within, markdown)
    # Epoch logs and pictures of a measurement are for whoever has the repository.
    return re.sub(r"\[([^\]]*)\]\([^)\s]*/\)", r"\1", markdown)


def _title(page: Path) -> str:
    return page.read_text().partition("\n")[0].removeprefix("# ")
